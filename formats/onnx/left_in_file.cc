// Protobuf copies what it parses. The wire format is walked here (protobuf encoding: fields of a tag, number << 3 |
// type, and a value), small messages are taken over as they are, and those that hold a large tensor written anew.
#include "formats/onnx/left_in_file.h"

#include <array>
#include <cstdint>

#include "formats/onnx/proto.h"

namespace onnxfold::onnx_proto {
namespace {

constexpr std::uint64_t kLarge = 64 << 10;  // bytes from which raw data stays where it is
constexpr int kMaxDepth = 200;              // of messages, as when they are parsed

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

// The messages on the way to a tensor.
enum class Message { kModel, kGraph, kNode, kAttribute, kTensor };

struct Step {
  Message from;
  std::uint32_t field;
  Message to;
  bool once;  // not repeated: two of it would be merged
};

constexpr std::array<Step, 6> kSteps = {{
    {Message::kModel, onnx::ModelProto::kGraphFieldNumber, Message::kGraph, true},
    {Message::kGraph, onnx::GraphProto::kInitializerFieldNumber, Message::kTensor, false},
    {Message::kGraph, onnx::GraphProto::kNodeFieldNumber, Message::kNode, false},
    {Message::kNode, onnx::NodeProto::kAttributeFieldNumber, Message::kAttribute, false},
    {Message::kAttribute, onnx::AttributeProto::kTFieldNumber, Message::kTensor, true},
    {Message::kAttribute, onnx::AttributeProto::kGFieldNumber, Message::kGraph, true},
}};

const Step* step_from(Message message, std::uint32_t field) {
  for (const Step& step : kSteps) {
    if (step.from == message && step.field == field) return &step;
  }
  return nullptr;
}

class Walk {
 public:
  Walk(std::span<const std::byte> file, LeftInFile& out) : file_(file), out_(out) {}

  // The message in [at, end) without large data; nothing where it cannot be told.
  std::optional<std::string> rewrite(Message message, std::uint64_t at, std::uint64_t end, int depth);

 private:
  // One field: its place, number, type, and where the content of a length-delimited one lies.
  struct Field {
    std::uint64_t at, content, end;
    std::uint32_t number, type;
    std::uint64_t length() const { return end - content; }
  };

  std::optional<std::uint64_t> varint(std::uint64_t& at, std::uint64_t end) const;
  std::optional<Field> field(std::uint64_t at, std::uint64_t end) const;
  bool descend(const Step& step, const Field& found, int depth, std::string& out);
  std::optional<std::string> rewrite_tensor(std::uint64_t at, std::uint64_t end);
  void copy(const Field& found, std::string& out) const {
    out.append(reinterpret_cast<const char*>(file_.data()) + found.at, found.end - found.at);
  }

  std::span<const std::byte> file_;
  LeftInFile& out_;
};

std::optional<std::uint64_t> Walk::varint(std::uint64_t& at, std::uint64_t end) const {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64 && at < end; shift += 7) {
    const auto byte = std::to_integer<std::uint64_t>(file_[at++]);
    value |= (byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

std::optional<Walk::Field> Walk::field(std::uint64_t at, std::uint64_t end) const {
  Field found{at, at, at, 0, 0};
  const auto tag = varint(at, end);
  if (!tag || *tag >> 3 == 0 || *tag > UINT32_MAX) return std::nullopt;
  found.number = static_cast<std::uint32_t>(*tag >> 3);
  found.type = static_cast<std::uint32_t>(*tag & 7);
  std::uint64_t length = 0;
  if (found.type == kVarint) {
    if (!varint(at, end)) return std::nullopt;
  } else if (found.type == kLengthDelimited) {
    const auto said = varint(at, end);
    if (!said) return std::nullopt;
    length = *said;
  } else if (found.type == kFixed64 || found.type == kFixed32) {
    length = found.type == kFixed64 ? 8 : 4;
  } else {
    return std::nullopt;  // groups: ONNX has none
  }
  if (length > end - at) return std::nullopt;
  found.content = at;
  found.end = at + length;
  return found;
}

std::optional<std::string> Walk::rewrite_tensor(std::uint64_t at, std::uint64_t end) {
  std::string out;
  std::optional<Field> data;
  for (; at < end;) {
    const auto found = field(at, end);
    if (!found) return std::nullopt;
    at = found->end;
    const bool placed = found->number == onnx::TensorProto::kSegmentFieldNumber ||
                        found->number == onnx::TensorProto::kDataLocationFieldNumber ||
                        found->number == onnx::TensorProto::kStringDataFieldNumber;
    const bool raw = found->number == onnx::TensorProto::kRawDataFieldNumber;
    if (placed || (raw && (data || found->type != kLengthDelimited))) return std::nullopt;
    if (raw) {
      data = found;
    } else {
      copy(*found, out);
    }
  }
  if (!data) return out;
  if (data->length() < kLarge) {
    copy(*data, out);
    return out;
  }
  const auto [place, inserted] = out_.places.emplace(data->content, data->end);
  onnx::TensorProto mark;
  mark.set_data_location(onnx::TensorProto::EXTERNAL);
  mark.mutable_segment()->set_begin(place->first);
  mark.mutable_segment()->set_end(place->second);
  return out + mark.SerializeAsString();
}

bool Walk::descend(const Step& step, const Field& found, int depth, std::string& out) {
  if (found.type != kLengthDelimited) return false;
  if (found.length() < kLarge) {
    copy(found, out);
    return true;
  }
  const auto inner = rewrite(step.to, found.content, found.end, depth + 1);
  if (inner) out += field_header(found.number, static_cast<std::int64_t>(inner->size())) + *inner;
  return inner.has_value();
}

std::optional<std::string> Walk::rewrite(Message message, std::uint64_t at, std::uint64_t end, int depth) {
  if (depth > kMaxDepth) return std::nullopt;
  if (message == Message::kTensor) return rewrite_tensor(at, end);
  std::string out;
  std::uint64_t seen = 0;  // fields that come once, as bits
  for (; at < end;) {
    const auto found = field(at, end);
    if (!found) return std::nullopt;
    at = found->end;
    const Step* step = step_from(message, found->number);
    if (step == nullptr) {
      copy(*found, out);
      continue;
    }
    if (step->once && (seen >> step->field & 1) != 0) return std::nullopt;
    seen |= std::uint64_t{1} << step->field;
    if (!descend(*step, *found, depth, out)) return std::nullopt;
  }
  return out;
}

}  // namespace

std::optional<std::pair<std::int64_t, std::int64_t>> LeftInFile::place_of(const onnx::TensorProto& proto) const {
  const auto found = places.find({proto.segment().begin(), proto.segment().end()});
  if (!proto.has_segment() || found == places.end()) return std::nullopt;
  return *found;
}

std::optional<LeftInFile> leave_data_in_file(std::span<const std::byte> file) {
  LeftInFile left;
  auto message = Walk(file, left).rewrite(Message::kModel, 0, file.size(), 0);
  if (!message) return std::nullopt;
  left.message = std::move(*message);
  return left;
}

}  // namespace onnxfold::onnx_proto
