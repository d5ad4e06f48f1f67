// A ModelProto message without its large tensors, whose raw data stays in the file that it came from.
#pragma once

#include <onnx/onnx_pb.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

namespace onnxfold::onnx_proto {

struct LeftInFile {
  std::string message;  // a ModelProto
  // Bytes [begin, end) of the file that were left out.
  std::set<std::pair<std::int64_t, std::int64_t>> places;

  // The bytes that stand for the raw data of this tensor of `message`; nothing for a tensor that has all its data.
  std::optional<std::pair<std::int64_t, std::int64_t>> place_of(const onnx::TensorProto& proto) const;
};

// `file`, a serialized ModelProto, without the raw_data of tensors of 64 KiB and more: of initializers and of
// attributes `t`, in subgraphs too. In its place such a tensor has data_location EXTERNAL and its place as segment.
// Costs what the rest of the message costs; the data is not touched. Nothing where that would change what the message
// means, or where it is no message: a large tensor with a segment or data_location of its own, fields that come twice
// where they may not, bytes that are cut off. Parse `file` itself then.
std::optional<LeftInFile> leave_data_in_file(std::span<const std::byte> file);

}  // namespace onnxfold::onnx_proto
