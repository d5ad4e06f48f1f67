// Model -> files: atomic, compact, within a memory budget.
#include <fmt/format.h>
#include <google/protobuf/io/zero_copy_stream_impl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>

#include "formats/onnx/data_writer.h"
#include "formats/onnx/inline_file.h"
#include "formats/onnx/onnx_file.h"
#include "formats/onnx/proto.h"
#include "formats/pending_files.h"

namespace onnxfold {
namespace {

namespace fs = std::filesystem;

// Protobuf counts in 31 bits; a margin for everything that is not tensor data.
constexpr std::int64_t kInlineLimit = (std::int64_t{2} << 30) - (std::int64_t{16} << 20);
// Where each external tensor lies in the data file. Tensors that share memory share their place.
class Layout {
 public:
  Layout(const SaveOptions& options, std::string location) : options_(options), location_(std::move(location)) {}

  bool external(const Tensor& tensor) const {
    return tensor.dtype() != DType::kString && tensor.nbytes() >= options_.inline_below;
  }

  Status place(const Tensor& tensor, onnx::TensorProto& proto) {
    if (!external(tensor)) return onnx_proto::export_inline(tensor, proto);
    auto [found, inserted] = offsets_.try_emplace(tensor.identity(), 0);
    if (inserted) {
      const std::int64_t align = tensor.nbytes() >= options_.align ? options_.align : 64;
      size_ = (size_ + align - 1) / align * align;
      found->second = size_;
      size_ += tensor.nbytes();
      tensors_.emplace_back(tensor, found->second);
    }
    proto.set_data_location(onnx::TensorProto::EXTERNAL);
    add(proto, "location", location_);
    add(proto, "offset", std::to_string(found->second));
    add(proto, "length", std::to_string(tensor.nbytes()));
    return {};
  }

  const PlacedTensors& tensors() const { return tensors_; }
  std::int64_t size() const { return size_; }

 private:
  static void add(onnx::TensorProto& proto, const char* key, std::string value) {
    auto* entry = proto.add_external_data();
    entry->set_key(key);
    entry->set_value(std::move(value));
  }

  const SaveOptions& options_;
  std::string location_;
  std::map<const void*, std::int64_t> offsets_;
  PlacedTensors tensors_;
  std::int64_t size_ = 0;
};

std::int64_t tensor_bytes(const Graph& graph) {
  std::int64_t total = 0;
  for (const Value* value : graph.values()) {
    const Tensor* tensor = value->constant();
    if (tensor == nullptr) tensor = value->initializer();
    if (tensor != nullptr) total += tensor->nbytes();
  }
  for (const Node* node : graph.nodes()) {
    for (const Graph* inner : node->subgraphs()) total += tensor_bytes(*inner);
  }
  return total;
}

tl::unexpected<Error> too_large(const std::string& path) {
  return fail(Code::kInvalidArgument,
              fmt::format("{}: over 2 GB, which no ONNX file can hold inline; write external data (--external)", path));
}

Status write_proto(const onnx::ModelProto& proto, PendingFile& file) {
  if (proto.ByteSizeLong() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return too_large(file.target());
  }
  google::protobuf::io::FileOutputStream stream(file.descriptor(), 1 << 20);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  const bool serialized = proto.SerializeToCodedStream(&coded);
  coded.Trim();
  if (!serialized || !stream.Flush()) {
    return fail(Code::kIo, fmt::format("{}: cannot write: {}", file.target(), std::strerror(stream.GetErrno())));
  }
  return {};
}

Status check_target(const std::string& path, const SaveOptions& options) {
  std::error_code error;
  if (fs::is_directory(path, error)) return fail(Code::kIo, fmt::format("{}: is a folder", path));
  if (!options.overwrite && fs::exists(path, error)) {
    return fail(Code::kInvalidArgument, fmt::format("{}: exists already; say --force to replace it", path));
  }
  return {};
}

const ValueNames* described(const SaveOptions& options) { return options.described ? &*options.described : nullptr; }

Result<SaveStats> save_inline(const Model& model, const std::string& path, const SaveOptions& options) {
  OF_ASSIGN(const onnx_proto::InlineFile content, onnx_proto::lay_out_inline(model, described(options)));
  if (content.size > std::numeric_limits<std::int32_t>::max()) return too_large(path);
  OF_ASSIGN(PendingFile file, PendingFile::create(path));
  OF_TRY(write_tensors(content.tensors, content.size, options, file));
  for (const auto& [offset, bytes] : content.pieces) OF_TRY(file.write_at(bytes.data(), bytes.size(), offset));
  OF_TRY(file.flush());
  OF_TRY(file.commit());
  return SaveStats{content.size, 0};
}

std::string data_name(const std::string& path, const SaveOptions& options) {
  return options.external_name.empty() ? fs::path(path).filename().string() + ".data" : options.external_name;
}

Status lay_out_external(const Model& model, const SaveOptions& options, Layout& layout, onnx::ModelProto& proto) {
  return onnx_proto::export_model(
      model, [&](const Tensor& tensor, onnx::TensorProto& made) { return layout.place(tensor, made); },
      [&](const Tensor& tensor) { return layout.external(tensor); }, proto, described(options));
}

Result<SaveStats> save_external(const Model& model, const std::string& path, const SaveOptions& options) {
  const fs::path target(path);
  const std::string name = data_name(path, options);
  if (fs::path(name).has_parent_path()) {
    return fail(Code::kInvalidArgument, fmt::format("external data file '{}' must lie beside the model", name));
  }
  if (name == target.filename().string()) {
    return fail(Code::kInvalidArgument, fmt::format("external data file '{}' has the name of the model itself", name));
  }
  const std::string data_path = (target.parent_path() / name).string();
  OF_TRY(check_target(data_path, options));
  Layout layout(options, name);
  onnx::ModelProto proto;
  OF_TRY(lay_out_external(model, options, layout, proto));
  OF_ASSIGN(PendingFile file, PendingFile::create(path));
  OF_ASSIGN(PendingFile data, PendingFile::create(data_path));
  OF_TRY(write_tensors(layout.tensors(), layout.size(), options, data));
  OF_TRY(write_proto(proto, file));
  OF_TRY(data.flush());
  OF_TRY(file.flush());
  // Data first: a model never names a file that is not there yet.
  OF_TRY(data.commit());
  OF_TRY(file.commit());
  return SaveStats{static_cast<std::int64_t>(proto.ByteSizeLong()), layout.size()};
}

Result<bool> goes_external(const Model& model, const std::string& path, const SaveOptions& options) {
  const bool large = tensor_bytes(model.graph()) >= kInlineLimit;
  if (options.placement == DataPlacement::kInline && large) {
    return too_large(path);
  }
  return options.placement == DataPlacement::kExternal || large;
}

}  // namespace

Result<SaveStats> save_model(const Model& model, const std::string& path, const SaveOptions& options) {
  OF_TRY(check_target(path, options));
  OF_TRY(check_memory(model, options));
  OF_ASSIGN(const bool external, goes_external(model, path, options));
  return external ? save_external(model, path, options) : save_inline(model, path, options);
}

Result<SaveStats> predict_save(const Model& model, const std::string& path, const SaveOptions& options) {
  OF_ASSIGN(const bool external, goes_external(model, path, options));
  if (!external) {
    OF_ASSIGN(const onnx_proto::InlineFile content, onnx_proto::lay_out_inline(model, described(options), true));
    return SaveStats{content.size, 0};
  }
  Layout layout(options, data_name(path, options));
  onnx::ModelProto proto;
  OF_TRY(lay_out_external(model, options, layout, proto));
  return SaveStats{static_cast<std::int64_t>(proto.ByteSizeLong()), layout.size()};
}

std::int64_t making_bytes(const Tensor& tensor) { return tensor.is_deferred() ? 3 * tensor.nbytes() : 0; }

Status check_memory(const Model& model, const SaveOptions& options) {
  if (!options.memory_limited) return {};
  for (const Graph* graph : const_cast<Model&>(model).graphs()) {
    for (const Value* value : graph->values()) {
      const Tensor* tensor = value->initializer() != nullptr ? value->initializer() : value->constant();
      if (tensor == nullptr || making_bytes(*tensor) <= options.memory_budget) continue;
      return fail(Code::kResource,
                  fmt::format("'{}' needs about {:.3g} MB while it is made, and the limit is {:.3g} MB", value->name(),
                              static_cast<double>(making_bytes(*tensor)) / 1e6,
                              static_cast<double>(options.memory_budget) / 1e6));
    }
  }
  return {};
}

Result<Buffer> serialize_model(const Model& model) {
  onnx::ModelProto proto;
  OF_TRY(onnx_proto::export_model(model, onnx_proto::export_inline, nullptr, proto));
  if (proto.ByteSizeLong() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return fail(Code::kInvalidArgument, "over 2 GB, which no ONNX message can hold");
  }
  Buffer bytes(proto.ByteSizeLong());
  google::protobuf::io::ArrayOutputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  if (!proto.SerializeToCodedStream(&coded)) return fail(Code::kInternal, "cannot serialize the model");
  return bytes;
}

}  // namespace onnxfold
