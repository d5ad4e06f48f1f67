# cmake --install: the binary, the public headers under include/onnxfold, the libraries and a CMake package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
get_property(onnxfold_libraries GLOBAL PROPERTY ONNXFOLD_LIBRARIES)
install(TARGETS onnxfold)
install(TARGETS ${onnxfold_libraries} EXPORT onnxfold-targets)
install(EXPORT onnxfold-targets NAMESPACE onnxfold:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/onnxfold)
foreach(floor ir formats exec analysis passes converter)
  install(DIRECTORY ${floor} DESTINATION include/onnxfold FILES_MATCHING PATTERN "*.h")
endforeach()
configure_package_config_file(cmake/onnxfold-config.cmake.in onnxfold-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/onnxfold)
write_basic_package_version_file(onnxfold-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/onnxfold-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/onnxfold-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/onnxfold)
