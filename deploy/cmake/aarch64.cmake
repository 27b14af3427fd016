# SPDX-License-Identifier: Apache-2.0
# Cross build for 64-bit ARM with Debian's compiler; what it makes runs here under qemu-user. Three
# libraries come from arm64 packages that deploy/deps unpacks beside the system, never into it.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L /usr/aarch64-linux-gnu)

set(SHOAL_ARM64_ROOT /usr/local/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH ${SHOAL_ARM64_ROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(ENV{PKG_CONFIG_LIBDIR} ${SHOAL_ARM64_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${SHOAL_ARM64_ROOT})
# Debian keeps headers that differ by processor in a folder of their own.
set(CMAKE_C_FLAGS_INIT "-isystem ${SHOAL_ARM64_ROOT}/usr/include/aarch64-linux-gnu")
