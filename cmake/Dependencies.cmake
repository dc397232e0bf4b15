# Every outside library, found once. gRPC, protobuf and abseil come with CMake packages on recent
# distributions and with pkg-config files on all; Ubuntu 22.04's gRPC has only the latter.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(absl REQUIRED CONFIG)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(fmt REQUIRED CONFIG)
find_package(spdlog REQUIRED CONFIG)
find_package(nlohmann_json REQUIRED CONFIG)
find_package(CLI11 REQUIRED CONFIG)
find_package(OpenSSL REQUIRED)
find_package(ZLIB REQUIRED)

pkg_check_modules(grpcpp REQUIRED IMPORTED_TARGET grpc++)
pkg_check_modules(ibverbs REQUIRED IMPORTED_TARGET libibverbs)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
