// Files and text -> Model.
#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <onnx/defs/parser.h>
#include <onnx/defs/printer.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "formats/onnx/left_in_file.h"
#include "formats/onnx/onnx_file.h"
#include "formats/onnx/proto.h"
#include "ir/mapped_file.h"

namespace onnxfold {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxMessageDepth = 200;

Status parse_proto(std::span<const std::byte> bytes, google::protobuf::Message& proto) {
  if (bytes.empty()) return fail(Code::kCorrupt, "the file is empty");
  if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    return fail(Code::kCorrupt, "over 2 GB, which no protobuf file can be; is it an external data file?");
  }
  google::protobuf::io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                                static_cast<int>(bytes.size()));
  stream.SetTotalBytesLimit(std::numeric_limits<int>::max());
  stream.SetRecursionLimit(kMaxMessageDepth);
  if (!proto.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
    return fail(Code::kCorrupt, "not an ONNX file, or truncated");
  }
  return {};
}

// The external files of one model: opened once, checked to lie in its folder, their used ranges remembered.
class ExternalFiles {
 public:
  explicit ExternalFiles(fs::path folder) : folder_(std::move(folder)) {}

  Result<Tensor> open(const onnx::TensorProto& proto, DType dtype, Dims dims);
  void report(LoadStats& stats) const;

 private:
  struct Entry {
    std::shared_ptr<const MappedFile> file;
    std::vector<std::pair<std::int64_t, std::int64_t>> used;  // [begin, end)
  };

  Result<Entry*> file(const std::string& location);

  fs::path folder_;
  std::map<std::string, Entry> files_;  // by real path
  std::set<std::string> locations_;
};

Result<std::int64_t> parse_number(const std::string& text, const char* key) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) {
    return fail(Code::kCorrupt, fmt::format("external data: {} '{}' is no valid number", key, text));
  }
  return number;
}

// The real path of a location. Neither it nor anything it links to may leave the model's folder.
Result<std::string> resolve(const fs::path& folder, const std::string& location) {
  const fs::path relative(location);
  const bool climbs = std::any_of(relative.begin(), relative.end(), [](const fs::path& part) { return part == ".."; });
  if (location.empty() || relative.is_absolute() || climbs || location.find('\0') != std::string::npos) {
    return fail(Code::kCorrupt, fmt::format("external data location '{}' leaves the model's folder", location));
  }
  std::error_code error;
  const fs::path base = fs::canonical(folder.empty() ? "." : folder, error);
  const fs::path target = error ? fs::path() : fs::weakly_canonical(base / relative, error);
  if (error) return fail(Code::kIo, fmt::format("external data file '{}': {}", location, error.message()));
  const auto mismatch = std::mismatch(base.begin(), base.end(), target.begin(), target.end());
  if (mismatch.first != base.end()) {
    return fail(Code::kCorrupt, fmt::format("external data location '{}' links out of the model's folder", location));
  }
  return target.string();
}

Result<ExternalFiles::Entry*> ExternalFiles::file(const std::string& location) {
  OF_ASSIGN(const std::string path, resolve(folder_, location));
  locations_.insert(fs::path(location).lexically_normal().generic_string());
  const auto found = files_.find(path);
  if (found != files_.end()) return &found->second;
  auto mapped = MappedFile::open(path);
  if (!mapped) return fail(mapped.error().in(fmt::format("external data file '{}'", location)));
  Entry& entry = files_[path];
  entry.file = std::move(*mapped);
  return &entry;
}

Result<Tensor> ExternalFiles::open(const onnx::TensorProto& proto, DType dtype, Dims dims) {
  std::string location;
  std::int64_t offset = 0;
  std::optional<std::int64_t> length;
  const auto named = [&](const Error& error) { return fail(error.in(fmt::format("tensor '{}'", proto.name()))); };
  for (const auto& entry : proto.external_data()) {
    if (entry.key() == "location") location = entry.value();
    if (entry.key() != "offset" && entry.key() != "length") continue;
    auto number = parse_number(entry.value(), entry.key().c_str());
    if (!number) return named(number.error());
    if (entry.key() == "offset") {
      offset = *number;
    } else {
      length = *number;
    }
  }
  const auto expected = packed_bytes(dtype, element_count(dims));
  if (!expected || dtype == DType::kString) return named(Error{Code::kCorrupt, "cannot be external"});
  if (length && *length != *expected) {
    return named(Error{Code::kCorrupt, fmt::format("external length {} where its shape needs {}", *length, *expected)});
  }
  auto entry = file(location);
  if (!entry) return named(entry.error());
  auto region = map_region((*entry)->file, offset, *expected);
  if (!region) return named(region.error());
  (*entry)->used.emplace_back(offset, offset + *expected);
  return Tensor::from_source(dtype, std::move(dims), std::move(*region));
}

void ExternalFiles::report(LoadStats& stats) const {
  stats.external_locations.assign(locations_.begin(), locations_.end());
  constexpr std::int64_t kGap = 64 << 10;  // alignment that writers leave between tensors
  for (const auto& [location, entry] : files_) {
    const auto size = static_cast<std::int64_t>(entry.file->data().size());
    stats.external_files.push_back(location);
    stats.external_bytes += size;
    auto used = entry.used;
    used.emplace_back(size, size);
    std::sort(used.begin(), used.end());
    std::int64_t end = 0;
    for (const auto& [from, to] : used) {
      if (from - end >= kGap) stats.dead_bytes += from - end;
      end = std::max(end, to);
    }
  }
}

// A tensor whose raw data was left in the model's own file.
Result<Tensor> open_in_place(const std::shared_ptr<const MappedFile>& file, std::pair<std::int64_t, std::int64_t> place,
                             const onnx::TensorProto& proto, DType dtype, Dims dims) {
  const std::int64_t found = place.second - place.first;
  const auto expected = packed_bytes(dtype, element_count(dims));
  if (!expected || *expected != found) {
    return fail(Code::kCorrupt, fmt::format("tensor '{}': holds {} bytes where its shape needs {}", proto.name(), found,
                                            expected.value_or(0)));
  }
  OF_ASSIGN(auto region, map_region(file, place.first, found));
  return Tensor::from_source(dtype, std::move(dims), std::move(region));
}

Result<std::unique_ptr<Model>> load(const std::string& path, LoadStats* stats) {
  OF_ASSIGN(const auto file, MappedFile::open(path));
  const auto left = onnx_proto::leave_data_in_file(file->data());
  onnx::ModelProto proto;
  OF_TRY(parse_proto(left ? std::as_bytes(std::span(left->message)) : file->data(), proto));
  ExternalFiles external(fs::path(path).parent_path());
  const auto open = [&](const onnx::TensorProto& tensor, DType dtype, Dims dims) -> Result<Tensor> {
    if (!tensor.has_segment()) return external.open(tensor, dtype, std::move(dims));
    const auto place = left ? left->place_of(tensor) : std::nullopt;
    if (place) return open_in_place(file, *place, tensor, dtype, std::move(dims));
    return fail(Code::kUnsupported, fmt::format("tensor '{}': segmented tensors", tensor.name()));
  };
  OF_ASSIGN(auto model, onnx_proto::import_model(std::move(proto), open));
  if (stats != nullptr) {
    *stats = {};
    stats->file_bytes = static_cast<std::int64_t>(file->data().size());
    external.report(*stats);
  }
  return model;
}

}  // namespace

Result<std::unique_ptr<Model>> load_model(const std::string& path, LoadStats* stats) {
  auto model = load(path, stats);
  if (model || model.error().message.rfind(path, 0) == 0) return model;
  return fail(model.error().in(path));
}

Result<std::unique_ptr<Model>> parse_model(std::span<const std::byte> bytes) {
  onnx::ModelProto proto;
  OF_TRY(parse_proto(bytes, proto));
  return onnx_proto::import_model(std::move(proto), nullptr);
}

namespace {

// The text parser stores one sub-byte element per int32 entry; the format wants them packed.
void repack(onnx::TensorProto& tensor) {
  const auto dtype = static_cast<DType>(tensor.data_type());
  if (!is_sub_byte(dtype) || tensor.int32_data_size() == 0) return;
  const int bits = bit_width(dtype);
  const int per_byte = 8 / bits;
  std::vector<std::int32_t> bytes(static_cast<std::size_t>((tensor.int32_data_size() + per_byte - 1) / per_byte));
  for (int i = 0; i < tensor.int32_data_size(); ++i) {
    const int code = tensor.int32_data(i) & ((1 << bits) - 1);
    bytes[static_cast<std::size_t>(i / per_byte)] |= code << (i % per_byte * bits);
  }
  tensor.mutable_int32_data()->Clear();
  tensor.mutable_int32_data()->Add(bytes.begin(), bytes.end());
}

void repack_graph(onnx::GraphProto& graph);

void repack_nodes(google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes) {
  for (auto& node : nodes) {
    for (auto& attribute : *node.mutable_attribute()) {
      if (attribute.has_t()) repack(*attribute.mutable_t());
      for (auto& tensor : *attribute.mutable_tensors()) repack(tensor);
      if (attribute.has_g()) repack_graph(*attribute.mutable_g());
    }
  }
}

void repack_graph(onnx::GraphProto& graph) {
  for (auto& initializer : *graph.mutable_initializer()) repack(initializer);
  repack_nodes(*graph.mutable_node());
}

Status parse_text(const std::string& text, onnx::ModelProto& proto) {
  try {
    onnx::OnnxParser parser(text.c_str());
    const auto status = parser.Parse(proto);
    if (!status.IsOK()) return fail(Code::kCorrupt, status.ErrorMessage());
    if (!parser.EndOfInput()) return fail(Code::kCorrupt, "text after the end of the model");
  } catch (const std::exception& error) {
    return fail(Code::kCorrupt, error.what());
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Model>> parse_model_text(const std::string& text) {
  onnx::ModelProto proto;
  OF_TRY(parse_text(text, proto));
  repack_graph(*proto.mutable_graph());
  for (auto& function : *proto.mutable_functions()) repack_nodes(*function.mutable_node());
  return onnx_proto::import_model(std::move(proto), nullptr);
}

Result<std::string> to_model_text(const Model& model) {
  onnx::ModelProto proto;
  OF_TRY(onnx_proto::export_model(model, onnx_proto::export_inline, nullptr, proto));
  try {
    return onnx::ProtoToString(proto);
  } catch (const std::exception& error) {
    return fail(Code::kUnsupported, fmt::format("ONNX text: {}", error.what()));
  }
}

Result<Tensor> load_tensor_pb(const std::string& path, std::string* name) {
  OF_ASSIGN(const auto file, MappedFile::open(path));
  onnx::TensorProto proto;
  if (auto status = parse_proto(file->data(), proto); !status) return fail(status.error().in(path));
  if (name != nullptr) *name = proto.name();
  auto tensor = onnx_proto::import_tensor(proto, nullptr);
  if (!tensor) return fail(tensor.error().in(path));
  return tensor;
}

}  // namespace onnxfold
