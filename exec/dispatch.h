// From a Storage known at run time to a C++ type known at compile time.
//
//   visit_numeric(x.storage(), [&]<typename T>(Tag<T>) { work<T>(x.data<T>(), y.mutable_data<T>()); });
//
// Each visit returns whether the storage belonged to its set; when it did not, the function was not called.
#pragma once

#include <complex>
#include <cstdint>
#include <string>

#include "exec/array.h"

namespace onnxfold {

template <typename T>
struct Tag {
  using type = T;
};

namespace internal {
template <typename... Ts, typename F>
bool visit_any(Storage storage, F&& fn) {
  return ((StorageOf<Ts>::value == storage ? (static_cast<void>(fn(Tag<Ts>{})), true) : false) || ...);
}
}  // namespace internal

template <typename F>
bool visit_float(Storage storage, F&& fn) {
  return internal::visit_any<float, double>(storage, fn);
}
template <typename F>
bool visit_integer(Storage storage, F&& fn) {
  return internal::visit_any<std::int64_t, std::int32_t, std::uint8_t, std::int8_t, std::int16_t, std::uint16_t,
                             std::uint32_t, std::uint64_t>(storage, fn);
}
// Floats and integers: not bool, string, complex.
template <typename F>
bool visit_numeric(Storage storage, F&& fn) {
  return visit_float(storage, fn) || visit_integer(storage, fn);
}
// Floats, integers and bool.
template <typename F>
bool visit_real(Storage storage, F&& fn) {
  return visit_numeric(storage, fn) || internal::visit_any<bool>(storage, fn);
}
template <typename F>
bool visit_storage(Storage storage, F&& fn) {
  return visit_real(storage, fn) ||
         internal::visit_any<std::string, std::complex<float>, std::complex<double>>(storage, fn);
}

// An opaque element of 16 bytes, for moving complex128.
struct Bytes16 {
  std::uint64_t low, high;
  friend bool operator==(const Bytes16&, const Bytes16&) = default;
};

// For kernels that only move elements: one instance per element size (unsigned integers, Bytes16) and one for strings.
template <typename F>
void visit_movable(Storage storage, F&& fn) {
  switch (storage_bytes(storage)) {
    case 1:
      fn(Tag<std::uint8_t>{});
      break;
    case 2:
      fn(Tag<std::uint16_t>{});
      break;
    case 4:
      fn(Tag<std::uint32_t>{});
      break;
    case 8:
      fn(Tag<std::uint64_t>{});
      break;
    case 16:
      fn(Tag<Bytes16>{});
      break;
    default:
      fn(Tag<std::string>{});
      break;
  }
}

}  // namespace onnxfold
