# `cmake --install` puts headers, libraries and a package config in place, so that another project
# writes find_package(gradwire) and links gradwire::collectives; liburxe.so serves by LD_PRELOAD too.
include(CMakePackageConfigHelpers)

get_property(libraries GLOBAL PROPERTY GRADWIRE_LIBRARIES)
install(TARGETS ${libraries} EXPORT gradwireTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS urxe EXPORT gradwireTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS gradwire_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET gradwire_simulate)
  install(TARGETS gradwire_simulate RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# Of urxe only its interface: what else is there belongs to the library alone.
install(DIRECTORY transport collectives parameter_server analysis
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/gradwire
        FILES_MATCHING PATTERN "*.h" PATTERN "*_internal.h" EXCLUDE
        PATTERN "urxe/*" EXCLUDE)
install(FILES transport/urxe/urxe.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/gradwire/transport/urxe)
install(EXPORT gradwireTargets NAMESPACE gradwire::
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/gradwire)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/gradwireConfig.cmake.in
  ${PROJECT_BINARY_DIR}/gradwireConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/gradwire)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/gradwireConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/gradwireConfig.cmake
              ${PROJECT_BINARY_DIR}/gradwireConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/gradwire)
