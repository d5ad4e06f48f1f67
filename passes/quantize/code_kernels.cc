#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/quantize/code_kernels.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include "passes/quantize/code_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Both give the number of codes that they packed.
#if HWY_TARGET == HWY_SCALAR
std::int64_t pack_nibbles(const std::uint8_t*, std::int64_t, std::uint8_t*) { return 0; }
std::int64_t pack_crumbs(const std::uint8_t*, std::int64_t, std::uint8_t*) { return 0; }
#else
// Two codes lie in a 16-bit lane, the first in the low byte.
std::int64_t pack_nibbles(const std::uint8_t* codes, std::int64_t count, std::uint8_t* out) {
  const hn::ScalableTag<std::uint16_t> d;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  const hn::Repartition<std::uint8_t, decltype(d)> bytes;
  const auto step = static_cast<std::int64_t>(2 * hn::Lanes(d));
  const auto low = hn::Set(d, 0x0F), high = hn::Set(d, 0xF0);
  std::int64_t i = 0;
  for (; i + step <= count; i += step) {
    const auto pair = hn::BitCast(d, hn::LoadU(bytes, codes + i));
    const auto packed = hn::Or(hn::And(pair, low), hn::And(hn::ShiftRight<4>(pair), high));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(hn::RebindToSigned<decltype(d)>(), packed)), d8, out + i / 2);
  }
  return i;
}

// Four codes in a 32-bit lane.
std::int64_t pack_crumbs(const std::uint8_t* codes, std::int64_t count, std::uint8_t* out) {
  const hn::ScalableTag<std::uint32_t> d;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  const hn::Repartition<std::uint8_t, decltype(d)> bytes;
  const auto step = static_cast<std::int64_t>(4 * hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + step <= count; i += step) {
    const auto four = hn::BitCast(d, hn::LoadU(bytes, codes + i));
    const auto first = hn::Or(hn::And(four, hn::Set(d, 0x03)), hn::And(hn::ShiftRight<6>(four), hn::Set(d, 0x0C)));
    const auto last = hn::Or(hn::And(hn::ShiftRight<12>(four), hn::Set(d, 0x30)),
                             hn::And(hn::ShiftRight<18>(four), hn::Set(d, 0xC0)));
    const auto packed = hn::BitCast(hn::RebindToSigned<decltype(d)>(), hn::Or(first, last));
    hn::StoreU(hn::DemoteTo(d8, packed), d8, out + i / 4);
  }
  return i;
}
#endif

void decode(const std::uint8_t* codes, std::int64_t count, float zero, float scale, float* out) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + step <= count; i += step) {
    const auto code = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, codes + i)));
    hn::StoreU(hn::Mul(hn::Sub(code, hn::Set(d, zero)), hn::Set(d, scale)), d, out + i);
  }
  for (; i < count; ++i) out[i] = (static_cast<float>(codes[i]) - zero) * scale;
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onnxfold {
namespace {

HWY_EXPORT(pack_nibbles);
HWY_EXPORT(pack_crumbs);
HWY_EXPORT(decode);

}  // namespace

void pack_codes(const std::uint8_t* codes, std::int64_t count, int bits, std::byte* out) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(out);
  std::int64_t i = bits == 4 ? HWY_DYNAMIC_DISPATCH(pack_nibbles)(codes, count, bytes)
                             : HWY_DYNAMIC_DISPATCH(pack_crumbs)(codes, count, bytes);
  for (const std::int64_t in_byte = 8 / bits; i < count; i += in_byte) {
    unsigned packed = 0;
    for (std::int64_t j = 0; j < in_byte && i + j < count; ++j) {
      packed |= static_cast<unsigned>(codes[i + j]) << (j * bits);
    }
    bytes[i / in_byte] = static_cast<std::uint8_t>(packed);
  }
}

void decode_codes(const std::uint8_t* codes, std::int64_t count, float zero, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(decode)(codes, count, zero, scale, out);
}

}  // namespace onnxfold
#endif
