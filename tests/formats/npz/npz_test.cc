#include "formats/npz/npz.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/support/paths.h"

namespace onnxfold::npz_test {
namespace {

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), {});
}

TEST(Npz, RoundTripWithTheSameBytesEveryTime) {
  const std::string folder = test::temp_dir();
  const std::map<std::string, Tensor> arrays = {{"ids", Tensor::of<std::int64_t>({3}, {1, -2, 3})},
                                                {"x", Tensor::of<float>({1, 2}, {0.5f, -1})}};
  ASSERT_TRUE(save_npz(folder + "/a.npz", arrays));
  ASSERT_TRUE(save_npz(folder + "/b.npz", arrays));
  EXPECT_EQ(file_text(folder + "/a.npz"), file_text(folder + "/b.npz"));
  const auto back = load_npz(folder + "/a.npz");
  ASSERT_TRUE(back) << back.error().message;
  ASSERT_EQ(back->size(), 2u);
  EXPECT_EQ(back->at("ids").dtype(), DType::kInt64);
  EXPECT_EQ(std::memcmp(back->at("x").bytes()->data(), arrays.at("x").bytes()->data(), 8), 0);
}

TEST(Npz, TypesNumpyLacksBecomeTheNextItHas) {
  const std::string path = test::temp_dir() + "/a.npz";
  const std::vector<double> halves = {1.5, -2}, nibbles = {-8, 0, 7};
  ASSERT_TRUE(save_npz(
      path, {{"h", *from_doubles(DType::kBFloat16, {2}, halves)}, {"q", *from_doubles(DType::kInt4, {3}, nibbles)}}));
  const auto back = load_npz(path);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->at("h").dtype(), DType::kFloat32);
  EXPECT_EQ(back->at("q").dtype(), DType::kInt8);
}

TEST(Npz, EveryCutIsAnErrorAndNeverACrash) {
  const std::string folder = test::temp_dir(), path = folder + "/cut.npz";
  ASSERT_TRUE(save_npz(folder + "/a.npz", {{"x", Tensor::of<float>({4}, {1, 2, 3, 4})}}));
  const std::string whole = file_text(folder + "/a.npz");
  for (std::size_t size = 0; size < whole.size(); size += 7) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << whole.substr(0, size);
    const auto loaded = load_npz(path);
    EXPECT_TRUE(!loaded || loaded->empty()) << size;
  }
  EXPECT_EQ(load_npz(folder + "/none.npz").error().code, Code::kIo);
}

}  // namespace
}  // namespace onnxfold::npz_test
