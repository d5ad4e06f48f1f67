#include "ir/dtype.h"

#include <gtest/gtest.h>

#include <limits>

namespace onnxfold::dtype_test {
namespace {

TEST(DType, NamesRoundTrip) {
  for (int code = 1; code <= 26; ++code) {
    const auto dtype = static_cast<DType>(code);
    EXPECT_EQ(dtype_from_name(name(dtype)), dtype);
  }
  EXPECT_FALSE(dtype_from_name("undefined"));
  EXPECT_FALSE(dtype_from_name("float33"));
}

TEST(DType, PackedBytesRoundUpAndNeverOverflow) {
  EXPECT_EQ(packed_bytes(DType::kInt4, 5), 3);
  EXPECT_EQ(packed_bytes(DType::kUint2, 5), 2);
  EXPECT_EQ(packed_bytes(DType::kFloat32, 0), 0);
  EXPECT_FALSE(packed_bytes(DType::kFloat32, std::numeric_limits<std::int64_t>::max() / 8));
  EXPECT_FALSE(packed_bytes(DType::kFloat32, -1));
}

TEST(DType, KindsDoNotOverlap) {
  for (int code = 1; code <= 26; ++code) {
    const auto dtype = static_cast<DType>(code);
    EXPECT_FALSE(is_float(dtype) && is_integer(dtype)) << name(dtype);
  }
  EXPECT_FALSE(is_integer(DType::kBool));
  EXPECT_FALSE(is_float(DType::kComplex64));
  EXPECT_TRUE(is_sub_byte(DType::kFloat4E2M1));
}

}  // namespace
}  // namespace onnxfold::dtype_test
