# SPDX-License-Identifier: Apache-2.0
# Every package comes from Debian 12 (deploy/deps installs them). Only adapters link them.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
if(SHOAL_ENGINE_ONLY)
    return()
endif()
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(SSL REQUIRED IMPORTED_TARGET libssl libcrypto)
pkg_check_modules(UV REQUIRED IMPORTED_TARGET libuv)
pkg_check_modules(HIREDIS REQUIRED IMPORTED_TARGET hiredis)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c)
find_program(PROTOC_C protoc-c REQUIRED)

# pkg-config for grpc drags some sixty abseil flags in; the two libraries are enough.
find_library(GRPC_LIBRARY grpc REQUIRED)
find_library(GPR_LIBRARY gpr REQUIRED)
add_library(shoal_grpc_external INTERFACE)
target_link_libraries(shoal_grpc_external INTERFACE ${GRPC_LIBRARY} ${GPR_LIBRARY} Threads::Threads)

# The adapter is common/train alone. Its threads are not used: nets run beside each other instead.
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)
add_library(shoal_openblas_external INTERFACE)
target_link_libraries(shoal_openblas_external INTERFACE PkgConfig::OPENBLAS)

# llhttp: C sources in Debian's node-llhttp, built once without our warnings.
find_path(LLHTTP_SOURCE_DIR llhttp.c PATHS /usr/share/llhttp REQUIRED NO_DEFAULT_PATH)
find_path(LLHTTP_INCLUDE_DIR llhttp.h PATHS /usr/share/include/llhttp REQUIRED NO_DEFAULT_PATH)
add_library(shoal_llhttp_external STATIC EXCLUDE_FROM_ALL
    ${LLHTTP_SOURCE_DIR}/api.c ${LLHTTP_SOURCE_DIR}/http.c ${LLHTTP_SOURCE_DIR}/llhttp.c)
target_include_directories(shoal_llhttp_external SYSTEM PUBLIC ${LLHTTP_INCLUDE_DIR})
