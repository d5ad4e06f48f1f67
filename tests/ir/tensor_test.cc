#include "ir/tensor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>

#include "ir/mapped_file.h"
#include "tests/support/paths.h"

namespace onnxfold::tensor_test {
namespace {

TEST(Tensor, DeferredBytesAreMadeOnDemand) {
  std::atomic<int> calls = 0;
  const Tensor tensor = Tensor::deferred(DType::kUint8, {3}, [&]() -> Result<Buffer> {
    ++calls;
    return Buffer(3, std::byte{7});
  });
  EXPECT_EQ(tensor.nbytes(), 3);
  EXPECT_TRUE(tensor.is_deferred());
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(tensor.bytes()->span()[2], std::byte{7});
  EXPECT_EQ(calls, 1);
}

TEST(Tensor, DeferredBytesOfAWrongSizeAreAnError) {
  const Tensor tensor = Tensor::deferred(DType::kUint8, {3}, []() -> Result<Buffer> { return Buffer(2); });
  ASSERT_FALSE(tensor.bytes());
  EXPECT_EQ(tensor.bytes().error().code, Code::kInternal);
}

TEST(Tensor, DeferredErrorsPassThrough) {
  const Tensor tensor =
      Tensor::deferred(DType::kUint8, {3}, []() -> Result<Buffer> { return fail(Code::kIo, "gone"); });
  EXPECT_EQ(tensor.bytes().error().message, "gone");
}

TEST(Tensor, ContentHashSeesTypeShapeAndBytes) {
  const Tensor a = Tensor::of<float>({2}, {1, 2});
  EXPECT_EQ(*a.content_hash(), *Tensor::of<float>({2}, {1, 2}).content_hash());
  EXPECT_NE(*a.content_hash(), *Tensor::of<float>({2, 1}, {1, 2}).content_hash());
  EXPECT_NE(*a.content_hash(), *Tensor::of<float>({2}, {1, 3}).content_hash());
  EXPECT_NE(*a.content_hash(), *a.reinterpreted(DType::kInt32, {2}).content_hash());
  EXPECT_NE(*Tensor::strings({2}, {"ab", "c"}).content_hash(), *Tensor::strings({2}, {"a", "bc"}).content_hash());
}

// The golden vector of the ONNX packing rules: first element in the low bits.
TEST(Tensor, SubByteElementsArePackedLowBitsFirst) {
  const std::vector<double> values = {1, -2, 3, -8, 7};
  const Tensor packed = *from_doubles(DType::kInt4, {5}, values);
  const Bytes bytes = *packed.bytes();
  EXPECT_EQ(std::vector<std::byte>(bytes.span().begin(), bytes.span().end()),
            (std::vector<std::byte>{std::byte{0xE1}, std::byte{0x83}, std::byte{0x07}}));
  EXPECT_EQ(*to_int64s(packed), (std::vector<std::int64_t>{1, -2, 3, -8, 7}));
}

class RoundTrip : public testing::TestWithParam<DType> {};

TEST_P(RoundTrip, SmallNumbersSurvive) {
  const double zero = GetParam() == DType::kFloat8E8M0 ? 0.5 : 0;  // E8M0 holds powers of two only
  const std::vector<double> values = {zero, 1, 1, zero, 1};
  const Tensor tensor = *from_doubles(GetParam(), {5}, values);
  EXPECT_EQ(*to_doubles(tensor), values);
  EXPECT_EQ(tensor.nbytes(), *packed_bytes(GetParam(), 5));
}

INSTANTIATE_TEST_SUITE_P(AllRealTypes, RoundTrip,
                         testing::Values(DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16,
                                         DType::kFloat8E4M3FN, DType::kFloat8E4M3FNUZ, DType::kFloat8E5M2,
                                         DType::kFloat8E5M2FNUZ, DType::kFloat8E8M0, DType::kFloat4E2M1, DType::kBool,
                                         DType::kInt8, DType::kUint8, DType::kInt16, DType::kUint16, DType::kInt32,
                                         DType::kUint32, DType::kInt64, DType::kUint64, DType::kInt4, DType::kUint4,
                                         DType::kInt2, DType::kUint2));

TEST(Tensor, IntegersSaturate) {
  const std::vector<double> values = {1e30, -1e30, 2.5, -3.5};
  EXPECT_EQ(*to_int64s(*from_doubles(DType::kInt8, {4}, values)), (std::vector<std::int64_t>{127, -128, 2, -4}));
  EXPECT_EQ(*to_int64s(*from_doubles(DType::kUint4, {4}, values)), (std::vector<std::int64_t>{15, 0, 2, 0}));
  EXPECT_EQ((*to_int64s(*from_doubles(DType::kInt64, {4}, values)))[0], std::numeric_limits<std::int64_t>::max());
}

TEST(Tensor, StringsAreNoNumbers) {
  EXPECT_EQ(to_doubles(Tensor::strings({1}, {"1"})).error().code, Code::kInvalidArgument);
  EXPECT_EQ(to_int64s(Tensor::scalar(1.0F)).error().code, Code::kInvalidArgument);
}

TEST(MappedFile, RegionsAreCheckedAgainstTheFile) {
  const std::string path = test::temp_dir() + "/data";
  std::ofstream(path, std::ios::binary) << "0123456789";
  const auto file = *MappedFile::open(path);
  const Tensor tensor = Tensor::from_source(DType::kUint8, {4}, *map_region(file, 2, 4));
  EXPECT_EQ(tensor.bytes()->span()[0], std::byte{'2'});
  EXPECT_EQ(tensor.file()->offset, 2);
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  for (const auto& [offset, length] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {-1, 2}, {0, 11}, {11, 0}, {8, 3}, {kHuge, 1}, {1, kHuge}, {0, -1}}) {
    EXPECT_EQ(map_region(file, offset, length).error().code, Code::kCorrupt) << offset << " " << length;
  }
}

TEST(MappedFile, WhatLiesAskewIsCopiedOnceForAllWhoHoldIt) {
  const std::string path = test::temp_dir() + "/data";
  std::ofstream(path, std::ios::binary) << "0123456789abcdef";
  const auto file = *MappedFile::open(path);
  const Tensor even = Tensor::from_source(DType::kFloat32, {2}, *map_region(file, 4, 8));
  EXPECT_EQ(even.aligned_bytes(4)->data(), even.bytes()->data());
  const Tensor askew = Tensor::from_source(DType::kFloat32, {2}, *map_region(file, 3, 8));
  EXPECT_EQ(askew.aligned_bytes(1)->data(), askew.bytes()->data());
  const Bytes first = *askew.aligned_bytes(4), second = *Tensor(askew).aligned_bytes(4);
  EXPECT_TRUE(first.aligned<float>());
  EXPECT_EQ(first.data(), second.data());
  EXPECT_EQ(std::memcmp(first.data(), askew.bytes()->data(), 8), 0);
  EXPECT_EQ(Tensor().aligned_bytes(8)->size(), 0U);
}

TEST(MappedFile, MissingFilesAndFoldersAreIoErrors) {
  EXPECT_EQ(MappedFile::open(test::temp_dir() + "/none").error().code, Code::kIo);
  EXPECT_EQ(MappedFile::open(test::temp_dir()).error().code, Code::kIo);
}

TEST(MappedFile, AFileMayBeReplacedWhileMapped) {
  const std::string path = test::temp_dir() + "/data";
  std::ofstream(path, std::ios::binary) << "old";
  const auto file = *MappedFile::open(path);
  const Tensor tensor = Tensor::from_source(DType::kUint8, {3}, *map_region(file, 0, 3));
  { const Bytes touched = *tensor.bytes(); }
  std::ofstream(path + ".new", std::ios::binary) << "new";
  ASSERT_EQ(rename((path + ".new").c_str(), path.c_str()), 0);
  EXPECT_EQ(tensor.bytes()->span()[0], std::byte{'o'});
}

}  // namespace
}  // namespace onnxfold::tensor_test
