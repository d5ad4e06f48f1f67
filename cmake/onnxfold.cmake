# One static library per floor (per family in passes/), so that an arrow pointing the wrong way fails to link.
set(ONNXFOLD_WARNINGS -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Werror
  # False positives of gcc 12 on "literal" + std::string (GCC bug 105329).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)

# onnxfold_precompile(target owner header): the owner precompiles the header and every other target reuses it. Parsing the standard
# library is half of a cold build. Off where ccache is found: it shares objects between checkouts only without it.
function(onnxfold_precompile target owner header)
  if(NOT ONNXFOLD_PRECOMPILE)
    return()
  elseif(target STREQUAL owner)
    target_precompile_headers(${target} PRIVATE ${header})
  else()
    target_precompile_headers(${target} REUSE_FROM ${owner})
  endif()
  target_link_libraries(${target} PRIVATE fmt::fmt)  # defines FMT_SHARED, which the precompiled header was made with
  # Bug 105329 again: a precompiled header loses that <string> is a system header, and gcc 12 sees ghosts inlined from it.
  # They stay errors in builds with ccache; a header that does not fit costs time only.
  target_compile_options(${target} PRIVATE "$<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow;-Wno-stringop-overread;\
-Wno-array-bounds;-Wno-error=maybe-uninitialized;-Wno-error=uninitialized;-Wno-error=nonnull;\
-Wno-error=free-nonheap-object;-Wno-error=dangling-pointer;-Wno-error=use-after-free;-Wno-error=invalid-pch>")
endfunction()

# onnxfold_library(name SOURCES a.cc... PUBLIC libs... PRIVATE libs...)
function(onnxfold_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  add_library(onnxfold::${name} ALIAS ${name})
  target_include_directories(${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include/onnxfold>)
  target_link_libraries(${name} PUBLIC ${arg_PUBLIC} PRIVATE ${arg_PRIVATE} onnxfold_build_flags)
  set_property(GLOBAL APPEND PROPERTY ONNXFOLD_LIBRARIES ${name})
  set(owner onnxfold_ir)
  if("OpenMP::OpenMP_CXX" IN_LIST arg_PRIVATE)  # its flags make the precompiled header another one
    set(owner ${name})
  endif()
  onnxfold_precompile(${name} ${owner} ${PROJECT_SOURCE_DIR}/cmake/precompiled.h)
endfunction()

add_library(onnxfold_build_flags INTERFACE)
target_compile_options(onnxfold_build_flags INTERFACE $<BUILD_INTERFACE:${ONNXFOLD_WARNINGS}>)
# A product and a sum become one operation only where the source says so (MulAdd): else what is inlined where decides bits.
target_compile_options(onnxfold_build_flags INTERFACE $<BUILD_INTERFACE:-ffp-contract=off>)
if(ONNXFOLD_SANITIZE)
  target_compile_options(onnxfold_build_flags INTERFACE
    -fsanitize=${ONNXFOLD_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)  # gcc 12 sees ghosts in std::regex under sanitizers
  target_link_options(onnxfold_build_flags INTERFACE -fsanitize=${ONNXFOLD_SANITIZE})
endif()
set_property(GLOBAL APPEND PROPERTY ONNXFOLD_LIBRARIES onnxfold_build_flags)

# onnxfold_tests(floor LIBS libs... SOURCES a_test.cc...): one test binary per floor, each case its own ctest test (not under
# sanitizers).
function(onnxfold_tests floor)
  cmake_parse_arguments(arg "" "" "LIBS;SOURCES" ${ARGN})
  add_executable(${floor}_tests ${arg_SOURCES})
  target_link_libraries(${floor}_tests PRIVATE ${arg_LIBS} onnxfold_test_support GTest::gmock GTest::gtest_main onnxfold_build_flags)
  target_include_directories(${floor}_tests PRIVATE ${PROJECT_SOURCE_DIR})
  # What is tested is optimized, in the libraries; optimizing the tests themselves is a third of their compile time.
  target_compile_options(${floor}_tests PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O0>)
  onnxfold_precompile(${floor}_tests ir_tests ${PROJECT_SOURCE_DIR}/cmake/precompiled_tests.h)
  # Eight at a time where nothing shares objects: half of a test's compile time is templates that the next one has too. Each
  # test file has a namespace of its own for it.
  set_target_properties(${floor}_tests PROPERTIES UNITY_BUILD ${ONNXFOLD_PRECOMPILE} UNITY_BUILD_BATCH_SIZE 8)
  if(NOT ONNXFOLD_SANITIZE)
    gtest_discover_tests(${floor}_tests DISCOVERY_TIMEOUT 60 PROPERTIES LABELS ${floor} TIMEOUT 300)
    return()
  endif()
  # A sanitized binary takes longer to start and to search for leaks than most cases take to run: a process for every eighth.
  foreach(shard RANGE 7)
    add_test(NAME ${floor}.shard${shard} COMMAND ${floor}_tests)
    set_tests_properties(${floor}.shard${shard} PROPERTIES LABELS ${floor} TIMEOUT 900
      ENVIRONMENT "GTEST_TOTAL_SHARDS=8;GTEST_SHARD_INDEX=${shard}")
  endforeach()
endfunction()

# onnxfold_pass_family(family PASSES names... SOURCES other.cc... LIBS libs...): the library of one pass family; its test
# sources (tests/passes/<family>/<name>_test.cc) are collected for tests/CMakeLists.txt.
function(onnxfold_pass_family family)
  cmake_parse_arguments(arg "" "" "PASSES;SOURCES;LIBS" ${ARGN})
  list(TRANSFORM arg_PASSES APPEND .cc OUTPUT_VARIABLE sources)
  onnxfold_library(onnxfold_passes_${family} SOURCES ${sources} ${arg_SOURCES} PUBLIC onnxfold_pass PRIVATE ${arg_LIBS})
  list(TRANSFORM arg_PASSES PREPEND ${PROJECT_SOURCE_DIR}/tests/passes/${family}/)
  list(TRANSFORM arg_PASSES APPEND _test.cc)
  set_property(GLOBAL APPEND PROPERTY ONNXFOLD_PASS_TESTS ${arg_PASSES})
endfunction()
