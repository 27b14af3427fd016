# SPDX-License-Identifier: Apache-2.0
# One static library per folder. Includes are rooted at the repository ("common/kv/kv.h"), and a folder
# sees only the folders it links: each library exports a "door", a directory that holds one symbolic link
# to the folder itself, instead of the repository's root. A wrong include direction does not compile.

# shoal_library(<folder> SOURCES ... [DEPS <folder>...] [LINK <external targets>...])
# makes target shoal_<folder with / as _>. DEPS and their doors are transitive; LINK is private.
function(shoal_library folder)
    cmake_parse_arguments(arg "" "" "SOURCES;DEPS;LINK" ${ARGN})
    string(REPLACE "/" "_" target "shoal_${folder}")
    add_library(${target} STATIC ${arg_SOURCES})
    shoal_door(${target} ${folder})
    foreach(dep IN LISTS arg_DEPS)
        string(REPLACE "/" "_" dep "shoal_${dep}")
        target_link_libraries(${target} PUBLIC ${dep})
    endforeach()
    target_link_libraries(${target} PRIVATE shoal_flags ${arg_LINK})
endfunction()

function(shoal_door target folder)
    set(door ${CMAKE_BINARY_DIR}/doors/${target})
    get_filename_component(parent ${door}/${folder} DIRECTORY)
    file(MAKE_DIRECTORY ${parent})
    file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${folder} ${door}/${folder} SYMBOLIC)
    target_include_directories(${target} PUBLIC ${door})
endfunction()

# shoal_program(<name> SOURCES ... DEPS ... [LINK ...]) makes build/<preset>/bin/<name>.
function(shoal_program name)
    cmake_parse_arguments(arg "" "" "SOURCES;DEPS;LINK" ${ARGN})
    add_executable(${name} ${arg_SOURCES})
    foreach(dep IN LISTS arg_DEPS)
        string(REPLACE "/" "_" dep "shoal_${dep}")
        target_link_libraries(${name} PRIVATE ${dep})
    endforeach()
    target_link_libraries(${name} PRIVATE shoal_flags ${arg_LINK})
endfunction()

# shoal_test(<name> SOURCES ... DEPS ... [LINK ...] [LABELS short|medium|long] [TIMEOUT seconds])
# makes a cmocka test program, run by ctest with the repository as SHOAL_SOURCE_DIR.
function(shoal_test name)
    cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPS;LINK;LABELS;ARGS" ${ARGN})
    shoal_program(${name} SOURCES ${arg_SOURCES} DEPS ${arg_DEPS} LINK PkgConfig::CMOCKA ${arg_LINK})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_include_directories(${name} PRIVATE ${CMAKE_BINARY_DIR}/doors/tests)
    add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
    if(NOT arg_LABELS)
        set(arg_LABELS short)
    endif()
    if(NOT arg_TIMEOUT)
        set(arg_TIMEOUT 120)
    endif()
    set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT}
        ENVIRONMENT "SHOAL_SOURCE_DIR=${CMAKE_SOURCE_DIR};SHOAL_BIN_DIR=${CMAKE_BINARY_DIR}/bin")
endfunction()

# tests/support is visible to tests alone, as "tests/support/x.h".
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/doors/tests/tests)
file(CREATE_LINK ${CMAKE_SOURCE_DIR}/tests/support ${CMAKE_BINARY_DIR}/doors/tests/tests/support SYMBOLIC)
