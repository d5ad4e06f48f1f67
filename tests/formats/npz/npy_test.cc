#include "formats/npz/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace onnxfold::npy_test {
namespace {

// A .npy of format 1.0 with this header dict and these bytes.
Buffer npy(const std::string& dict, const std::string& data, char major = 1) {
  const std::string header = dict + "\n";
  std::string file = std::string("\x93NUMPY", 6) + major + '\0';
  file += static_cast<char>(header.size() & 0xFF);
  file += static_cast<char>(header.size() >> 8);
  if (major > 1) file += std::string(2, '\0');
  file += header + data;
  Buffer buffer(file.size());
  std::memcpy(buffer.data(), file.data(), file.size());
  return buffer;
}

std::string dict(const std::string& descr, const std::string& shape, bool fortran = false) {
  return "{'descr': '" + descr + "', 'fortran_order': " + (fortran ? "True" : "False") + ", 'shape': " + shape + ", }";
}

std::vector<std::int16_t> numbers(const Result<Tensor>& tensor) {
  if (!tensor) return {};
  const auto bytes = tensor->bytes();
  std::vector<std::int16_t> result(bytes->size() / 2);
  std::memcpy(result.data(), bytes->data(), bytes->size());
  return result;
}

const std::string kSixLittle("\1\0\2\0\3\0\4\0\5\0\6\0", 12);

TEST(Npy, OrdersOfBytesAndAxes) {
  using Numbers = std::vector<std::int16_t>;
  EXPECT_EQ(numbers(parse_npy(npy(dict("<i2", "(2, 3)"), kSixLittle))), (Numbers{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(numbers(parse_npy(npy(dict("<i2", "(2, 3)", true), kSixLittle))), (Numbers{1, 3, 5, 2, 4, 6}));
  EXPECT_EQ(numbers(parse_npy(npy(dict(">i2", "(2,)"), std::string("\0\1\1\0", 4)))), (Numbers{1, 256}));
  EXPECT_EQ(numbers(parse_npy(npy(dict("<i2", "(6,)"), kSixLittle, 3))), (Numbers{1, 2, 3, 4, 5, 6}));
}

TEST(Npy, ScalarsAndEmptyArrays) {
  const auto scalar = parse_npy(npy(dict("<i2", "()"), std::string("\7\0", 2)));
  ASSERT_TRUE(scalar) << scalar.error().message;
  EXPECT_TRUE(scalar->dims().empty());
  const auto empty = parse_npy(npy(dict("<f4", "(0, 3)"), ""));
  ASSERT_TRUE(empty) << empty.error().message;
  EXPECT_EQ(empty->dims(), (Dims{0, 3}));
}

TEST(Npy, TextOfBothKinds) {
  const auto bytes = parse_npy(npy(dict("|S3", "(2,)"), std::string("ab\0xyz", 6)));
  ASSERT_TRUE(bytes) << bytes.error().message;
  EXPECT_EQ(bytes->dtype(), DType::kString);
  const auto unicode = parse_npy(npy(dict("<U1", "(1,)"), std::string("\xe9\0\0\0", 4)));
  ASSERT_TRUE(unicode) << unicode.error().message;
}

TEST(Npy, DamageIsCorruptAndForeignTypesAreUnsupported) {
  const auto code = [](const Buffer& data) { return parse_npy(data).error().code; };
  EXPECT_EQ(code({}), Code::kCorrupt);
  EXPECT_EQ(code(npy(dict("<i2", "(2, 3)"), kSixLittle.substr(1))), Code::kCorrupt);
  EXPECT_EQ(code(npy(dict("<i2", "(2, 3)"), kSixLittle + "x")), Code::kCorrupt);
  EXPECT_EQ(code(npy(dict("<i2", "(9223372036854775807, 9223372036854775807)"), "")), Code::kCorrupt);
  EXPECT_EQ(code(npy(dict("<i2", "(-2, 3)"), kSixLittle)), Code::kCorrupt);
  EXPECT_EQ(code(npy(dict("<i2", "(2, 3"), kSixLittle)), Code::kCorrupt);
  EXPECT_EQ(code(npy("{'descr': '<i2'}", kSixLittle)), Code::kCorrupt);
  EXPECT_EQ(code(npy(dict("<i2", "(6,)"), kSixLittle, 9)), Code::kCorrupt);
  EXPECT_EQ(code(npy(dict("|O", "(1,)"), "12345678")), Code::kUnsupported);
  EXPECT_EQ(code(npy("{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (6,)}", kSixLittle)),
            Code::kUnsupported);
}

TEST(Npy, WhatIsWrittenReadsBack) {
  const Tensor tensor = Tensor::of<float>({2, 2}, {1, -2, 3.5f, 0});
  const auto file = format_npy(tensor);
  ASSERT_TRUE(file);
  const auto back = parse_npy(*file);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->dims(), tensor.dims());
  EXPECT_EQ(std::memcmp(back->bytes()->data(), tensor.bytes()->data(), 16), 0);
}

}  // namespace
}  // namespace onnxfold::npy_test
