#include "formats/npz/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace onnxfold {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are little-endian in memory");

struct Header {
  std::string descr;  // "<f4", "|S5"...
  bool fortran = false;
  Dims dims;
};

tl::unexpected<Error> corrupt(std::string what) { return fail(Code::kCorrupt, std::move(what)); }

// The value of 'key' in the header's Python dict literal, up to the comma or brace that ends it.
std::optional<std::string_view> field(std::string_view dict, std::string_view key) {
  const std::size_t at = dict.find(key);
  if (at == std::string_view::npos) return {};
  const std::size_t colon = dict.find(':', at);
  if (colon == std::string_view::npos) return {};
  std::string_view rest = dict.substr(colon + 1);
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  return rest;
}

Result<Dims> parse_shape(std::string_view text) {
  Dims dims;
  std::int64_t count = 1;
  std::size_t at = 1;  // past "("
  while (at < text.size() && text[at] != ')') {
    std::int64_t dim = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), dim);
    if (error == std::errc() && dim >= 0 && !__builtin_mul_overflow(count, std::max<std::int64_t>(dim, 1), &count)) {
      dims.push_back(dim);
    } else {
      return corrupt("its shape is unreadable");
    }
    at = static_cast<std::size_t>(end - text.data());
    while (at < text.size() && (text[at] == ',' || text[at] == ' ' || text[at] == 'L')) ++at;
  }
  if (at >= text.size()) return corrupt("its shape is unreadable");
  return dims;
}

Result<Header> parse_header(std::string_view dict) {
  Header header;
  const auto descr = field(dict, "'descr'");
  const auto fortran = field(dict, "'fortran_order'");
  const auto shape = field(dict, "'shape'");
  if (!descr || !fortran || !shape) return corrupt("its header lacks descr, fortran_order or shape");
  if (descr->empty() || descr->front() != '\'')
    return fail(Code::kUnsupported, "structured types are not arrays of a model");
  const std::size_t quote = descr->find('\'', 1);
  if (quote == std::string_view::npos) return corrupt("its type is unreadable");
  header.descr = descr->substr(1, quote - 1);
  header.fortran = fortran->starts_with("True");
  if (!shape->starts_with("(")) return corrupt("its shape is unreadable");
  OF_ASSIGN(header.dims, parse_shape(*shape));
  return header;
}

std::optional<DType> plain_type(std::string_view code) {
  static constexpr std::pair<std::string_view, DType> kTypes[] = {
      {"f4", DType::kFloat32},   {"f8", DType::kFloat64},    {"f2", DType::kFloat16}, {"i1", DType::kInt8},
      {"i2", DType::kInt16},     {"i4", DType::kInt32},      {"i8", DType::kInt64},   {"u1", DType::kUint8},
      {"u2", DType::kUint16},    {"u4", DType::kUint32},     {"u8", DType::kUint64},  {"b1", DType::kBool},
      {"c8", DType::kComplex64}, {"c16", DType::kComplex128}};
  for (const auto& [name, dtype] : kTypes) {
    if (name == code) return dtype;
  }
  return {};
}

void swap_bytes(Buffer& data, std::size_t width) {
  for (std::size_t at = 0; at + width <= data.size(); at += width) {
    std::reverse(data.begin() + static_cast<std::ptrdiff_t>(at),
                 data.begin() + static_cast<std::ptrdiff_t>(at + width));
  }
}

// Column-major elements to row-major.
Buffer transpose_fortran(const Buffer& data, const Dims& dims, std::size_t width) {
  Buffer out(data.size());
  std::vector<std::int64_t> index(dims.size(), 0);
  const std::int64_t count = element_count(dims);
  for (std::int64_t from = 0; from < count; ++from) {
    std::int64_t to = 0;
    for (std::size_t axis = 0; axis < dims.size(); ++axis) to = to * dims[axis] + index[axis];
    std::memcpy(out.data() + static_cast<std::size_t>(to) * width, data.data() + static_cast<std::size_t>(from) * width,
                width);
    for (std::size_t axis = 0; axis < dims.size() && ++index[axis] == dims[axis]; ++axis) index[axis] = 0;
  }
  return out;
}

void append_utf8(std::string& text, std::uint32_t point) {
  if (point < 0x80) {
    text += static_cast<char>(point);
  } else if (point < 0x800) {
    text += static_cast<char>(0xC0 | (point >> 6));
    text += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    text += static_cast<char>(0xE0 | (point >> 12));
    text += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    text += static_cast<char>(0xF0 | (point >> 18));
    text += static_cast<char>(0x80 | ((point >> 12) & 0x3F));
    text += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (point & 0x3F));
  }
}

Tensor to_strings(const Buffer& data, const Dims& dims, std::size_t width, bool unicode) {
  std::vector<std::string> strings(static_cast<std::size_t>(element_count(dims)));
  for (std::size_t i = 0; i < strings.size(); ++i) {
    const std::byte* at = data.data() + i * width;
    if (!unicode) {
      strings[i].assign(reinterpret_cast<const char*>(at), width);
      strings[i].resize(strings[i].find_last_not_of('\0') + 1);
      continue;
    }
    for (std::size_t c = 0; c + 4 <= width; c += 4) {
      std::uint32_t point = 0;
      std::memcpy(&point, at + c, 4);
      if (point != 0) append_utf8(strings[i], point);
    }
  }
  return Tensor::strings(dims, std::move(strings));
}

Result<Tensor> build(const Header& header, Buffer data) {
  if (header.descr.size() < 2) return corrupt("its type is unreadable");
  const char order = header.descr.front();
  const std::string_view code = std::string_view(header.descr).substr(1);
  const bool text = code.starts_with("S") || code.starts_with("U");
  const auto dtype = plain_type(code);
  std::size_t width = 0;
  if (text) {
    std::from_chars(code.data() + 1, code.data() + code.size(), width);
    if (code.front() == 'U') width *= 4;
    if (width > (std::size_t{1} << 20)) return corrupt("its strings are over 1 MB long");
    // No bytes prove the count then, and it is not believed.
    if (width == 0 && element_count(header.dims) > (1 << 20)) return corrupt("too many empty strings");
  } else if (dtype) {
    width = static_cast<std::size_t>(bit_width(*dtype)) / 8;
  } else {
    return fail(Code::kUnsupported, fmt::format("numpy type '{}' has no ONNX element type", header.descr));
  }
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(element_count(header.dims), static_cast<std::int64_t>(width), &bytes) ||
      bytes != static_cast<std::int64_t>(data.size())) {
    return corrupt(fmt::format("holds {} bytes where its header says {}", data.size(), bytes));
  }
  const bool complex = dtype == DType::kComplex64 || dtype == DType::kComplex128;
  if (order == '>' && code.front() != 'S') swap_bytes(data, code.front() == 'U' ? 4 : complex ? width / 2 : width);
  if (header.fortran && header.dims.size() > 1 && width > 0) data = transpose_fortran(data, header.dims, width);
  if (text) return to_strings(data, header.dims, width, code.front() == 'U');
  return Tensor::owned(*dtype, header.dims, std::move(data));
}

}  // namespace

Result<Tensor> parse_npy(const Buffer& data) {
  constexpr std::size_t kMagic = 8;
  if (data.size() < kMagic + 2 || std::memcmp(data.data(), "\x93NUMPY", 6) != 0) return corrupt("not a .npy array");
  const auto major = std::to_integer<int>(data[6]);
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  if (major < 1 || major > 3 || data.size() < kMagic + length_bytes) return corrupt("an unknown .npy version");
  std::uint32_t length = 0;
  std::memcpy(&length, data.data() + kMagic, length_bytes);
  const std::size_t start = kMagic + length_bytes + length;
  if (start > data.size()) return corrupt("its header is truncated");
  const std::string_view dict(reinterpret_cast<const char*>(data.data()) + kMagic + length_bytes, length);
  OF_ASSIGN(const Header header, parse_header(dict));
  return build(header, Buffer(data.begin() + static_cast<std::ptrdiff_t>(start), data.end()));
}

namespace {

// The nearest type numpy has.
DType numpy_type(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
    case DType::kFloat8E4M3FN:
    case DType::kFloat8E4M3FNUZ:
    case DType::kFloat8E5M2:
    case DType::kFloat8E5M2FNUZ:
    case DType::kFloat8E8M0:
    case DType::kFloat4E2M1:
      return DType::kFloat32;
    case DType::kInt4:
    case DType::kInt2:
      return DType::kInt8;
    case DType::kUint4:
    case DType::kUint2:
      return DType::kUint8;
    default:
      return dtype;
  }
}

std::string descr_of(DType dtype) {
  const int bytes = bit_width(dtype) / 8;
  if (dtype == DType::kBool) return "|b1";
  if (dtype == DType::kComplex64 || dtype == DType::kComplex128) return fmt::format("<c{}", bytes);
  const char kind = is_float(dtype) ? 'f' : is_signed(dtype) ? 'i' : 'u';
  return fmt::format("{}{}{}", bytes == 1 ? '|' : '<', kind, bytes);
}

Buffer with_header(const std::string& descr, const Dims& dims) {
  std::string shape;
  for (const std::int64_t dim : dims) shape += fmt::format("{}, ", dim);
  if (dims.size() > 1) shape.resize(shape.size() - 2);
  if (dims.size() == 1) shape.resize(shape.size() - 1);
  std::string dict = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, shape);
  const std::size_t total = (10 + dict.size() + 1 + 63) / 64 * 64;
  dict.resize(total - 10 - 1, ' ');
  dict += '\n';
  const auto length = static_cast<std::uint16_t>(dict.size());
  std::string head("\x93NUMPY\x01\x00", 8);
  head.append(reinterpret_cast<const char*>(&length), 2);
  head += dict;
  const auto* first = reinterpret_cast<const std::byte*>(head.data());
  return Buffer(first, first + head.size());
}

Buffer format_strings(const Tensor& tensor) {
  std::size_t width = 1;
  for (const std::string& text : tensor.string_data()) width = std::max(width, text.size());
  Buffer data = with_header(fmt::format("|S{}", width), tensor.dims());
  for (const std::string& text : tensor.string_data()) {
    const std::size_t at = data.size();
    data.resize(at + width);
    std::memcpy(data.data() + at, text.data(), text.size());
  }
  return data;
}

}  // namespace

Result<Buffer> format_npy(const Tensor& tensor) {
  if (tensor.dtype() == DType::kString) return format_strings(tensor);
  Tensor plain = tensor;
  const DType dtype = numpy_type(tensor.dtype());
  if (dtype != tensor.dtype()) {
    OF_ASSIGN(const std::vector<double> values, to_doubles(tensor));
    OF_ASSIGN(plain, from_doubles(dtype, tensor.dims(), values));
  }
  OF_ASSIGN(const Bytes bytes, plain.bytes());
  Buffer data = with_header(descr_of(dtype), tensor.dims());
  data.insert(data.end(), bytes.span().begin(), bytes.span().end());
  return data;
}

}  // namespace onnxfold
