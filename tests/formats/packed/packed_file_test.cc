#include "formats/packed/packed_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "formats/packed/chunk.h"
#include "formats/packed/layout.h"

namespace onnxfold::packed_file_test {
namespace {

namespace fs = std::filesystem;
using Text = std::string;

class PackedFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("onnxfold-packed-" + std::to_string(getpid()) + "-" +
                                           ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  Text path(const Text& name) const { return (folder_ / name).string(); }
  void write(const Text& name, const Text& bytes) const {
    std::ofstream(path(name), std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  Text read(const Text& name) const {
    std::ifstream in(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
};

Text normal_floats(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Text bytes(4 * count, '\0');
  for (std::size_t i = 0; i < count; ++i) {
    const float x = normal(random);
    std::memcpy(bytes.data() + 4 * i, &x, sizeof x);
  }
  return bytes;
}

Text noise(std::size_t count) {
  std::mt19937 random(2);
  Text bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// Codes of 3 bits stored in 4.
Text narrow_codes(std::size_t count) {
  Text bytes = noise(count);
  for (char& byte : bytes) byte = static_cast<char>(byte & 0x77);
  return bytes;
}

TEST_F(PackedFile, EveryFileComesBackToTheByte) {
  const Text model = normal_floats(200'001) + "tail", data = noise(kPackedChunk) + narrow_codes(3 * kPackedChunk + 5);
  write("m.onnx", model);
  fs::create_directories(folder_ / "w");
  write("w/d.bin", data);
  write("empty", "");
  const auto packed = pack_files(folder_.string(), {"m.onnx", "w/d.bin", "empty"}, path("m.onnxz"), {});
  ASSERT_TRUE(packed) << packed.error().message;
  EXPECT_EQ(packed->unpacked_bytes, static_cast<std::int64_t>(model.size() + data.size()));
  EXPECT_EQ(packed->packed_bytes, static_cast<std::int64_t>(fs::file_size(path("m.onnxz"))));
  EXPECT_LT(packed->packed_bytes, packed->unpacked_bytes * 9 / 10);
  const auto back = unpack_files(path("m.onnxz"), path("out/n.onnx"), {});
  EXPECT_FALSE(back);  // the folder of the model has to be there
  fs::create_directories(folder_ / "out");
  const auto again = unpack_files(path("m.onnxz"), path("out/n.onnx"), {});
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->files, (std::vector<Text>{"m.onnx", "w/d.bin", "empty"}));
  EXPECT_EQ(read("out/n.onnx"), model);
  EXPECT_EQ(read("out/w/d.bin"), data);
  EXPECT_EQ(read("out/empty"), "");
}

TEST_F(PackedFile, TheSameBytesAtAnyNumberOfThreads) {
  write("m.onnx", normal_floats(150'000) + noise(100'000));
  Text first;
  for (const int threads : {1, 3}) {
    PackOptions options;
    options.threads = threads;
    options.overwrite = true;
    ASSERT_TRUE(pack_files(folder_.string(), {"m.onnx"}, path("m.onnxz"), options));
    if (first.empty()) first = read("m.onnxz");
    EXPECT_EQ(read("m.onnxz"), first);
    ASSERT_TRUE(unpack_files(path("m.onnxz"), path("n.onnx"), options));
    EXPECT_EQ(read("n.onnx"), read("m.onnx"));
  }
}

TEST_F(PackedFile, NothingIsOverwrittenUnasked) {
  write("m.onnx", "model");
  write("m.onnxz", "old");
  EXPECT_EQ(pack_files(folder_.string(), {"m.onnx"}, path("m.onnxz"), {}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(read("m.onnxz"), "old");
  ASSERT_TRUE(pack_files(folder_.string(), {"m.onnx"}, path("p"), {}));
  EXPECT_EQ(unpack_files(path("p"), path("m.onnx"), {}).error().code, Code::kInvalidArgument);
}

TEST_F(PackedFile, EveryCutAndEveryChangedByteIsSeen) {
  const Text model = narrow_codes(300);
  write("m.onnx", model);
  ASSERT_TRUE(pack_files(folder_.string(), {"m.onnx"}, path("p"), {}));
  const Text whole = read("p");
  for (std::size_t i = 0; i < whole.size(); i += i < 55 || i + 9 > whole.size() ? 1 : 13) {
    write("bad", whole.substr(0, i));
    const auto cut = unpack_files(path("bad"), path("n.onnx"), {});
    ASSERT_FALSE(cut) << i;
    EXPECT_EQ(cut.error().code, Code::kCorrupt) << i;
    Text changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 0x40);
    write("bad", changed);
    const auto other = unpack_files(path("bad"), path("n.onnx"), {});
    const bool in_name = i >= 20 && i < 26;  // another name of the model is as good
    ASSERT_EQ(other.has_value(), in_name) << i;
    fs::remove(path("n.onnx"));
  }
  write("bad", whole + "x");
  EXPECT_FALSE(unpack_files(path("bad"), path("n.onnx"), {}));
  EXPECT_EQ(files(), 3U);  // m.onnx, p, bad: no temporary file stays
}

TEST_F(PackedFile, ErrorsNameWhatIsWrong) {
  const auto message = [&](const Text& bytes) {
    write("bad", bytes);
    return unpack_files(path("bad"), path("n.onnx"), {}).error().message;
  };
  EXPECT_NE(message("GIF89a and so on").find("no packed model"), Text::npos);
  const Text magic(kPackedMagic);
  const Text version2 = magic + Text("\2\0\0\0\1\0\0\0", 8);
  EXPECT_NE(message(version2).find("version 2"), Text::npos);
  const Text climbing = magic + Text("\1\0\0\0\1\0\0\0\4\0\0\0../x", 16);
  EXPECT_NE(message(climbing).find("leaves the model's folder"), Text::npos);
  // 2^63 bytes: nothing is allocated for what is not there.
  const Text huge = magic + Text("\1\0\0\0\1\0\0\0\1\0\0\0m\0\0\0\0\0\0\0\x80", 21);
  EXPECT_NE(message(huge).find("ends too early"), Text::npos);
  EXPECT_NE(unpack_files(path("nowhere"), path("n.onnx"), {}).error().message.find("cannot open"), Text::npos);
}

TEST_F(PackedFile, NamesStayInTheFolder) {
  for (const char* good : {"a", "a.data", "w/b.bin", "..a/b..", "a b"}) EXPECT_TRUE(is_packed_name(good)) << good;
  for (const char* bad : {"", "/a", "../a", "a/../b", "a//b", ".", "a/", "a\\b"})
    EXPECT_FALSE(is_packed_name(bad)) << bad;
  EXPECT_FALSE(is_packed_name(std::string_view("a\0b", 3)));
  EXPECT_EQ(pack_files(folder_.string(), {"../m"}, path("p"), {}).error().code, Code::kInvalidArgument);
}

TEST(PackedChunk, TheSmallestMethodIsTaken) {
  const auto method = [](const Text& text) {
    const Buffer bytes(reinterpret_cast<const std::byte*>(text.data()),
                       reinterpret_cast<const std::byte*>(text.data()) + text.size());
    const auto packed = pack_chunk(bytes);
    EXPECT_TRUE(packed);
    EXPECT_LE(packed->data.size(), bytes.size());
    EXPECT_EQ(*unpack_chunk(*packed, bytes.size()), bytes);
    EXPECT_FALSE(unpack_chunk(*packed, bytes.size() + 1));
    EXPECT_TRUE(bytes.empty() || !unpack_chunk(*packed, bytes.size() - 1));
    return packed->method;
  };
  EXPECT_EQ(method(noise(10'001)), 0);
  EXPECT_EQ(method(narrow_codes(10'001)), 1);
  EXPECT_EQ(method(normal_floats(10'000) + "x"), 33);
  EXPECT_EQ(method(""), 0);
}

}  // namespace
}  // namespace onnxfold::packed_file_test
