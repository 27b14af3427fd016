# SPDX-License-Identifier: Apache-2.0
# Language level, warnings and hardening flags, the same for every target.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(SHOAL_SANITIZE "" CACHE STRING "Sanitizers for the whole build: address,undefined or thread")
option(SHOAL_COVERAGE "Count which lines run (GCC only; tests/coverage)" OFF)
option(SHOAL_FUZZ "Build the fuzz targets with libFuzzer (Clang only)" OFF)
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_C_FLAGS_RELEASE "-O2 -g1 -D_FORTIFY_SOURCE=2")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")

add_library(shoal_flags INTERFACE)
target_compile_definitions(shoal_flags INTERFACE _GNU_SOURCE)
# R2: the compiler must not fuse or reassociate; every fma in the tree is written as one.
target_compile_options(shoal_flags INTERFACE
    -ffp-contract=off -fno-common -fvisibility=hidden -fstack-protector-strong -fno-omit-frame-pointer
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wdouble-promotion -Wundef -Wvla
    -Walloca -Wcast-align -Wcast-qual -Wwrite-strings -Wstrict-prototypes -Wold-style-definition
    -Wmissing-prototypes -Wredundant-decls -Wformat=2 -Wswitch-enum
    -Wframe-larger-than=16384 -Werror)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    target_compile_options(shoal_flags INTERFACE -Wlogical-op -Wduplicated-cond)
else()
    # GCC 12's -Wnull-dereference sees ghosts behind status codes that were checked: Clang's only.
    target_compile_options(shoal_flags INTERFACE -Wnull-dereference -Wcomma -Wmissing-variable-declarations)
endif()
# For loops of which the compiler is to make vectors and register tiles. Instrumented, a tile is memory all the
# same, and its unrolled copies take the compiler five minutes a file.
set(SHOAL_OPTIMISE -O3)
if(SHOAL_SANITIZE)
    set(SHOAL_OPTIMISE -O1)
    add_compile_options(-fsanitize=${SHOAL_SANITIZE} -fno-sanitize-recover=all)
    target_compile_options(shoal_flags INTERFACE -Wno-frame-larger-than)
    add_link_options(-fsanitize=${SHOAL_SANITIZE})
endif()
if(SHOAL_COVERAGE)
    # Counts are lost where threads meet; whether a line ran is not.
    add_compile_options(--coverage)
    target_compile_options(shoal_flags INTERFACE -Wno-frame-larger-than)
    add_link_options(--coverage)
endif()
if(SHOAL_FUZZ)
    add_compile_options(-fsanitize=fuzzer-no-link,address,undefined)
    add_link_options(-fsanitize=address,undefined)
endif()
