// Model -> files: atomic, compact, within a memory budget.
#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <mutex>
#include <thread>

#include "formats/onnx/onnx_file.h"
#include "formats/onnx/proto.h"
#include "formats/pending_files.h"

namespace onnxfold {
namespace {

namespace fs = std::filesystem;

// Protobuf counts in 31 bits; a margin for everything that is not tensor data.
constexpr std::int64_t kInlineLimit = (std::int64_t{2} << 30) - (std::int64_t{16} << 20);
constexpr std::int64_t kChunk = 16 << 20;

// Whole pages of a read-only mapping that need not stay in memory; touching them again reads the file again.
void drop_pages(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t begin = (first + page - 1) / page * page;
  const std::uintptr_t end = (first + bytes.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

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

  const std::vector<std::pair<Tensor, std::int64_t>>& tensors() const { return tensors_; }
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
  std::vector<std::pair<Tensor, std::int64_t>> tensors_;  // in file order
  std::int64_t size_ = 0;
};

// Writes the tensors of a layout with several workers, each making one tensor at a time. A worker starts the next
// tensor when the bytes in flight leave room for it, or when nothing is in flight: at least one tensor always proceeds.
class DataWriter {
 public:
  DataWriter(const Layout& layout, const SaveOptions& options, PendingFile& file)
      : layout_(layout), options_(options), file_(file) {}

  Status run() {
    if (auto status = file_.resize(layout_.size()); !status) return status;
    std::vector<std::thread> workers;
    for (int i = 1; i < std::max(1, options_.threads); ++i) workers.emplace_back([this] { work(); });
    work();
    for (std::thread& worker : workers) worker.join();
    return result_;
  }

 private:
  void work() {
    while (const auto* next = take()) {
      Status status;
      try {
        status = write(next->first, next->second);
      } catch (const std::exception&) {  // std::bad_alloc: a deferred function throws nothing else
        status = fail(Code::kResource, "out of memory while a tensor was made; use fewer threads or a smaller budget");
      }
      finish(cost(next->first), std::move(status));
    }
  }

  // Bytes held while the tensor is made; mapped and owned ones are written from where they are.
  static std::int64_t cost(const Tensor& tensor) { return tensor.is_deferred() ? tensor.nbytes() : 0; }

  const std::pair<Tensor, std::int64_t>* take() {
    std::unique_lock lock(mutex_);
    const auto& tensors = layout_.tensors();
    const auto fits = [&] {
      return !result_ || next_ >= tensors.size() || in_flight_ == 0 ||
             in_flight_ + cost(tensors[next_].first) <= options_.memory_budget;
    };
    wake_.wait(lock, fits);
    if (!result_ || next_ >= tensors.size()) return nullptr;
    const auto* taken = &tensors[next_++];
    in_flight_ += cost(taken->first);
    return taken;
  }

  Status write(const Tensor& tensor, std::int64_t offset) {
    OF_ASSIGN(const Bytes bytes, tensor.bytes());
    return put(bytes.span(), offset, tensor.file() != nullptr);
  }

  // In chunks, so that no large part of a mapped file becomes resident. The mapping is read, not the path: the file
  // there may be another one by now.
  Status put(std::span<const std::byte> bytes, std::int64_t offset, bool mapped) {
    for (std::size_t at = 0; at < bytes.size(); at += kChunk) {
      const std::size_t size = std::min<std::size_t>(kChunk, bytes.size() - at);
      OF_TRY(file_.write_at(bytes.data() + at, size, offset + static_cast<std::int64_t>(at)));
      if (mapped) drop_pages(bytes.subspan(at, size));
      progress(static_cast<std::int64_t>(size));
    }
    return {};
  }

  void progress(std::int64_t bytes) {
    if (!options_.progress) return;
    const std::lock_guard lock(progress_mutex_);
    done_ += bytes;
    options_.progress(done_, layout_.size());
  }

  void finish(std::int64_t bytes, Status status) {
    const std::lock_guard lock(mutex_);
    in_flight_ -= bytes;
    if (!status && result_) result_ = std::move(status);
    wake_.notify_all();
  }

  const Layout& layout_;
  const SaveOptions& options_;
  PendingFile& file_;
  std::mutex mutex_, progress_mutex_;
  std::condition_variable wake_;
  std::size_t next_ = 0;
  std::int64_t in_flight_ = 0;
  std::int64_t done_ = 0;
  Status result_;
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

Status write_proto(const onnx::ModelProto& proto, PendingFile& file) {
  if (proto.ByteSizeLong() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return fail(Code::kInvalidArgument, fmt::format("{}: over 2 GB, which no ONNX file can hold inline; write external "
                                                    "data (--external)",
                                                    file.target()));
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

Result<SaveStats> save_inline(const Model& model, const std::string& path) {
  onnx::ModelProto proto;
  OF_TRY(onnx_proto::export_model(model, onnx_proto::export_inline, nullptr, proto));
  OF_ASSIGN(PendingFile file, PendingFile::create(path));
  OF_TRY(write_proto(proto, file));
  OF_TRY(file.flush());
  OF_TRY(file.commit());
  return SaveStats{static_cast<std::int64_t>(proto.ByteSizeLong()), 0};
}

Result<SaveStats> save_external(const Model& model, const std::string& path, const SaveOptions& options) {
  const fs::path target(path);
  const std::string name = options.external_name.empty() ? target.filename().string() + ".data" : options.external_name;
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
  OF_TRY(onnx_proto::export_model(
      model, [&](const Tensor& tensor, onnx::TensorProto& made) { return layout.place(tensor, made); },
      [&](const Tensor& tensor) { return layout.external(tensor); }, proto));
  OF_ASSIGN(PendingFile file, PendingFile::create(path));
  OF_ASSIGN(PendingFile data, PendingFile::create(data_path));
  OF_TRY(DataWriter(layout, options, data).run());
  OF_TRY(write_proto(proto, file));
  OF_TRY(data.flush());
  OF_TRY(file.flush());
  // Data first: a model never names a file that is not there yet.
  OF_TRY(data.commit());
  OF_TRY(file.commit());
  return SaveStats{static_cast<std::int64_t>(proto.ByteSizeLong()), layout.size()};
}

}  // namespace

Result<SaveStats> save_model(const Model& model, const std::string& path, const SaveOptions& options) {
  OF_TRY(check_target(path, options));
  const bool large = tensor_bytes(model.graph()) >= kInlineLimit;
  if (options.placement == DataPlacement::kInline && large) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("{}: over 2 GB, which no ONNX file can hold inline; write external data (--external)", path));
  }
  const bool external = options.placement == DataPlacement::kExternal || large;
  return external ? save_external(model, path, options) : save_inline(model, path);
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
