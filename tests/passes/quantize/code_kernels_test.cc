#include "passes/quantize/code_kernels.h"

#include <gtest/gtest.h>

#include <vector>

#include "passes/quantize/packing.h"

namespace onnxfold::code_kernels_test {
namespace {

// Every length around the widths of vectors; the byte after the last is left alone.
TEST(CodeKernels, PackedCodesReadBack) {
  for (const int bits : {2, 4}) {
    for (std::int64_t count = 0; count < 300; ++count) {
      std::vector<std::uint8_t> codes;
      for (std::int64_t i = 0; i < count; ++i) {
        codes.push_back(static_cast<std::uint8_t>((i * 7 + i / 5) % (1 << bits)));
      }
      const auto bytes = static_cast<std::size_t>((count * bits + 7) / 8);
      std::vector<std::byte> packed(bytes + 1, std::byte{0xA5});
      pack_codes(codes.data(), count, bits, packed.data());
      EXPECT_EQ(packed.back(), std::byte{0xA5});
      EXPECT_EQ(unpack(packed, bits, count), codes) << bits << " bits, " << count;
      if (bits == 4 && count % 2 == 1) {
        EXPECT_EQ(packed[bytes - 1] >> 4, std::byte{0});
      }
    }
  }
}

TEST(CodeKernels, DecodedCodesAreTheFormula) {
  for (std::int64_t count = 0; count < 70; ++count) {
    std::vector<std::uint8_t> codes;
    for (std::int64_t i = 0; i < count; ++i) codes.push_back(static_cast<std::uint8_t>(i * 37 % 256));
    std::vector<float> out(static_cast<std::size_t>(count) + 1, 99.0F);
    decode_codes(codes.data(), count, 7.0F, -0.3F, out.data());
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      EXPECT_EQ(out[at], (static_cast<float>(codes[at]) - 7.0F) * -0.3F);
    }
    EXPECT_EQ(out.back(), 99.0F);
  }
}

}  // namespace
}  // namespace onnxfold::code_kernels_test
