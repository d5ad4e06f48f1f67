// One operator on given arrays, for kernel tests.
//
//   auto out = run_op("Transpose", {array<float>({2, 3}, {...})}, ints("perm", {1, 0}));
//   expect_array<float>(out, 0, {3, 2}, {...});
#pragma once

#include <gmock/gmock.h>

#include <algorithm>
#include <complex>
#include <string>
#include <vector>

#include "exec/dispatch.h"
#include "exec/executor.h"

namespace onnxfold::test {

inline constexpr std::int64_t kLatestOpset = 24;

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  if constexpr (std::is_same_v<T, double>) return DType::kFloat64;
  if constexpr (std::is_same_v<T, bool>) return DType::kBool;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::kInt8;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::kUint8;
  if constexpr (std::is_same_v<T, std::int16_t>) return DType::kInt16;
  if constexpr (std::is_same_v<T, std::uint16_t>) return DType::kUint16;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::kInt32;
  if constexpr (std::is_same_v<T, std::uint32_t>) return DType::kUint32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::kInt64;
  if constexpr (std::is_same_v<T, std::uint64_t>) return DType::kUint64;
  if constexpr (std::is_same_v<T, std::string>) return DType::kString;
  return DType::kUndefined;
}

// REQUIRES: T is the storage type of `dtype` in this precision.
template <typename T>
Array array(Dims dims, const std::vector<T>& values, DType dtype = dtype_of<T>(),
            Precision precision = Precision::kFloat32) {
  Array made(dtype, std::move(dims), precision);
  EXPECT_EQ(made.size(), static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), made.template mutable_data<T>());
  return made;
}

inline Attribute integer(std::string name, std::int64_t value) { return {std::move(name), value}; }
inline Attribute real(std::string name, float value) { return {std::move(name), value}; }
inline Attribute text(std::string name, std::string value) { return {std::move(name), std::move(value)}; }
inline Attribute ints(std::string name, std::vector<std::int64_t> value) { return {std::move(name), std::move(value)}; }

template <typename... Given>
std::vector<Attribute> attributes(Given... given) {
  std::vector<Attribute> list;
  (list.push_back(std::move(given)), ...);
  return list;
}

struct OpOptions {
  std::int64_t opset = kLatestOpset;
  std::size_t outputs = 1;
  Precision precision = Precision::kFloat32;
  std::string domain = "";
};

// Absent data are omitted inputs.
Result<std::vector<Datum>> run_op(const std::string& op_type, std::vector<Datum> inputs,
                                  std::vector<Attribute> attributes = {}, const OpOptions& options = {});

template <typename T>
void expect_array(const Result<std::vector<Datum>>& outputs, std::size_t i, const Dims& dims,
                  const std::vector<T>& values) {
  ASSERT_TRUE(outputs.has_value()) << outputs.error().message;
  ASSERT_LT(i, outputs->size());
  const Array& actual = (*outputs)[i].array;
  ASSERT_EQ(actual.dims(), dims);
  ASSERT_EQ(actual.storage(), StorageOf<T>::value);
  EXPECT_THAT(std::vector<T>(actual.data<T>(), actual.data<T>() + actual.size()), testing::ElementsAreArray(values));
}

// Failing, with a message that holds `part`.
void expect_failure(const Result<std::vector<Datum>>& outputs, Code code, const std::string& part);

}  // namespace onnxfold::test
