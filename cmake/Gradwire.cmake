# Compiler settings that hold for every room, and the one function that makes a room's library.

option(GRADWIRE_TESTS "Build the tests" ON)
option(GRADWIRE_EXTRAS "Build the small examples and the micro benchmarks" ON)
option(GRADWIRE_WERROR "Treat warnings as errors (on in CI)" OFF)
set(GRADWIRE_SANITIZE "" CACHE STRING "Sanitizers, as in -fsanitize=; empty for none")
set(GRADWIRE_ARCH "" CACHE STRING "Value for -march=; empty: portable code with run-time dispatch")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
# Installed programs find liburxe.so beside them, wherever the tree is moved to.
include(GNUInstallDirs)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
# Speed of the data path matters, assertions stay on: -O2 without NDEBUG would slow Eigen's loops.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O3 -g1 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths relative to the checkout: another build folder or clone finds what this one compiled.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()

add_library(gradwire_options INTERFACE)
target_compile_options(gradwire_options INTERFACE -Wall -Wextra -Wno-missing-field-initializers
  $<$<BOOL:${GRADWIRE_WERROR}>:-Werror>)
set(sanitize_library)
if(GRADWIRE_SANITIZE)
  # Lines are all that a report's stack shows; what else -g writes is a third of the compiler's time.
  set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
  # Reading headers is half of it; here several files of a target read them once. Within a target,
  # names in anonymous namespaces therefore differ. The plain builds take each file by itself.
  set(CMAKE_UNITY_BUILD ON)
  set(CMAKE_UNITY_BUILD_BATCH_SIZE 8)
  add_compile_options(-fsanitize=${GRADWIRE_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=${GRADWIRE_SANITIZE})
  if(GRADWIRE_SANITIZE MATCHES undefined)
    # These two are most of what UBSan costs, above all in headers of templates. AddressSanitizer
    # reports what goes through a null pointer by itself; alignment is for code that reads what peers
    # and files say: the libraries.
    add_compile_options(-fno-sanitize=null,alignment)
    set(sanitize_library -fsanitize=alignment)
  endif()
endif()
if(GRADWIRE_ARCH)
  add_compile_options(-march=${GRADWIRE_ARCH})
endif()

# gradwire_library(NAME SOURCES file... [DEPS target...] [PRIVATE_DEPS target...])
# Makes libgradwire_NAME with the alias gradwire::NAME, includes relative to the top folder.
function(gradwire_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(gradwire_${name} STATIC ${ARG_SOURCES})
  add_library(gradwire::${name} ALIAS gradwire_${name})
  set_target_properties(gradwire_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_options(gradwire_${name} PRIVATE ${sanitize_library})
  target_include_directories(gradwire_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include/gradwire>)
  target_link_libraries(gradwire_${name} PUBLIC ${ARG_DEPS}
                        PRIVATE ${ARG_PRIVATE_DEPS} $<BUILD_INTERFACE:gradwire_options>)
  set_property(GLOBAL APPEND PROPERTY GRADWIRE_LIBRARIES gradwire_${name})
endfunction()

# gradwire_quick_to_compile(TARGET)
# For code whose speed nobody waits for: optimising it is a third of the compiler's time, and of an
# instrumented command line more.
function(gradwire_quick_to_compile name)
  target_compile_options(${name} PRIVATE $<$<CONFIG:RelWithDebInfo>:-O1>)
endfunction()
