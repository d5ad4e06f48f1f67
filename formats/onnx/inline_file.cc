// A ModelProto message written by hand where it matters: the graph's initializers come last, and the raw data of each
// large one is a gap of known place and length.
#include "formats/onnx/inline_file.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <map>
#include <memory>

#include "formats/onnx/proto.h"

namespace onnxfold::onnx_proto {
namespace {

constexpr std::int64_t kLarge = 64 << 10;  // bytes from which a tensor is worth a gap
// And from which one is that is yet to be made: those of one weight are made together when they are written in turn.
constexpr std::int64_t kLargeDeferred = 1 << 10;

std::string serialized(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

struct Initializer {
  std::string head;  // up to the raw data
  Tensor data;       // undefined when the head holds everything
};

Initializer lay_out(const onnx::TensorProto& proto, const Tensor& data) {
  std::string content = serialized(proto);
  if (data.defined()) content += field_header(onnx::TensorProto::kRawDataFieldNumber, data.nbytes());
  const auto length = static_cast<std::int64_t>(content.size()) + data.nbytes();
  return {field_header(onnx::GraphProto::kInitializerFieldNumber, length) + content, data};
}

}  // namespace

std::string field_header(std::uint32_t field, std::int64_t length) {
  std::string bytes;
  const auto put = [&](std::uint64_t left) {
    for (; left >= 0x80; left >>= 7) bytes += static_cast<char>(left | 0x80);
    bytes += static_cast<char>(left);
  };
  constexpr std::uint64_t kLengthDelimited = 2;
  put(std::uint64_t{field} << 3 | kLengthDelimited);
  put(static_cast<std::uint64_t>(length));
  return bytes;
}

Result<InlineFile> lay_out_inline(const Model& model, const ValueNames* described, bool sizes_only) {
  std::map<const onnx::TensorProto*, Tensor> held;
  onnx::ModelProto proto;
  const auto put = [&](const Tensor& tensor, onnx::TensorProto& made) -> Status {
    if (!sizes_only || !tensor.is_deferred()) return export_inline(tensor, made);
    made.mutable_raw_data()->resize(static_cast<std::size_t>(tensor.nbytes()));
    return {};
  };
  OF_TRY(export_model(
      model,
      [&](const Tensor& tensor, onnx::TensorProto& made) -> Status {
        const std::int64_t large = tensor.is_deferred() ? kLargeDeferred : kLarge;
        if (tensor.dtype() == DType::kString || tensor.nbytes() < large) return put(tensor, made);
        held[&made] = tensor;
        return {};
      },
      nullptr, proto, described));
  const std::unique_ptr<onnx::GraphProto> graph(proto.release_graph());
  std::vector<Initializer> initializers;
  std::int64_t length = 0;
  for (const onnx::TensorProto& each : graph->initializer()) {
    const auto found = held.find(&each);
    initializers.push_back(lay_out(each, found == held.end() ? Tensor() : found->second));
    if (found != held.end()) held.erase(found);
    length += static_cast<std::int64_t>(initializers.back().head.size()) + initializers.back().data.nbytes();
  }
  // Large tensors elsewhere (attributes, subgraphs) stay part of their messages.
  for (const auto& [place, tensor] : held) OF_TRY(put(tensor, const_cast<onnx::TensorProto&>(*place)));
  graph->clear_initializer();
  const std::string body = serialized(*graph);
  length += static_cast<std::int64_t>(body.size());

  InlineFile file;
  std::string piece = serialized(proto) + field_header(onnx::ModelProto::kGraphFieldNumber, length) + body;
  for (Initializer& each : initializers) {
    piece += each.head;
    if (!each.data.defined()) continue;
    const auto at = file.size + static_cast<std::int64_t>(piece.size());
    file.pieces.emplace_back(file.size, std::move(piece));
    piece.clear();
    file.size = at + each.data.nbytes();
    file.tensors.emplace_back(std::move(each.data), at);
  }
  const auto rest = static_cast<std::int64_t>(piece.size());
  if (rest > 0) file.pieces.emplace_back(file.size, std::move(piece));
  file.size += rest;
  return file;
}

}  // namespace onnxfold::onnx_proto
