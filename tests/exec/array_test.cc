#include "exec/array.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <new>

#include "tests/exec/run_op.h"

namespace onnxfold::array_test {
namespace {

using test::array;
using testing::ElementsAre;

TEST(Array, RefusesSizesThatOverflow) {
  EXPECT_THROW(Array(DType::kFloat32, {std::int64_t{1} << 40, std::int64_t{1} << 40}, Precision::kFloat32),
               std::bad_alloc);
  EXPECT_THROW(Array(DType::kFloat32, {-1}, Precision::kFloat32), std::bad_alloc);
  EXPECT_THROW(Array(DType::kFloat64, {std::int64_t{1} << 60}, Precision::kFloat32), std::bad_alloc);
}

TEST(Array, EmptyDimensionBeatsLargeOnes) {
  const Array made(DType::kFloat32, {0, std::int64_t{1} << 40, std::int64_t{1} << 40}, Precision::kFloat32);
  EXPECT_EQ(made.size(), 0);
}

TEST(Array, FloatTensorIsAViewInFloat32Mode) {
  const Tensor tensor = Tensor::of<float>({2}, {1.5F, -2.0F});
  const Result<Array> made = to_array(tensor, Precision::kFloat32);
  ASSERT_TRUE(made.has_value());
  EXPECT_EQ(made->raw(), static_cast<const void*>(tensor.bytes()->data()));
  EXPECT_FALSE(made->unique());
}

TEST(Array, FloatTensorWidensInFloat64Mode) {
  const Result<Array> made = to_array(Tensor::of<float>({2}, {0.1F, -2.0F}), Precision::kFloat64);
  ASSERT_TRUE(made.has_value());
  ASSERT_EQ(made->storage(), Storage::kDouble);
  EXPECT_EQ(made->data<double>()[0], static_cast<double>(0.1F));
}

TEST(Array, Int4RoundTripsWithSigns) {
  Buffer packed = {std::byte{0x8F}, std::byte{0x07}};  // -1, -8, 7
  const Tensor tensor = Tensor::owned(DType::kInt4, {3}, packed);
  const Result<Array> made = to_array(tensor, Precision::kFloat32);
  ASSERT_TRUE(made.has_value());
  EXPECT_THAT(std::vector<int>(made->data<std::int8_t>(), made->data<std::int8_t>() + 3), ElementsAre(-1, -8, 7));
  const Result<Tensor> back = to_tensor(*made);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(std::memcmp(back->bytes()->data(), packed.data(), 2), 0);
}

TEST(Array, BoolBytesOtherThanOneAreTrue) {
  const Tensor tensor = Tensor::owned(DType::kBool, {2}, {std::byte{7}, std::byte{0}});
  const Result<Array> made = to_array(tensor, Precision::kFloat32);
  ASSERT_TRUE(made.has_value());
  EXPECT_EQ(static_cast<const unsigned char*>(made->raw())[0], 1);
}

TEST(Array, RoundsToHalf) {
  Array values = array<float>({3}, {1.0F + 1.0F / 4096, 70000.0F, 0.5F}, DType::kFloat16);
  round_to_dtype(values);
  EXPECT_EQ(values.data<float>()[0], 1.0F);
  EXPECT_TRUE(std::isinf(values.data<float>()[1]));
  EXPECT_EQ(values.data<float>()[2], 0.5F);
}

TEST(Array, StringsAreNoNumbers) {
  const Result<std::vector<double>> numbers = to_doubles(array<std::string>({1}, {"a"}));
  ASSERT_FALSE(numbers.has_value());
  EXPECT_EQ(numbers.error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace onnxfold::array_test
