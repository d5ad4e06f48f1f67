#include "formats/onnx/data_writer.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "ir/mapped_file.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kChunk = 16 << 20;

// Writes tensors with several workers, each making one tensor at a time. A worker starts the next
// tensor when the bytes in flight leave room for it, or when nothing is in flight: at least one tensor always proceeds.
class DataWriter {
 public:
  DataWriter(const PlacedTensors& tensors, std::int64_t size, const SaveOptions& options, PendingFile& file)
      : tensors_(tensors), size_(size), options_(options), file_(file) {}

  Status run() {
    if (auto status = file_.resize(size_); !status) return status;
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
      finish(making_bytes(next->first), std::move(status));
    }
  }

  const std::pair<Tensor, std::int64_t>* take() {
    std::unique_lock lock(mutex_);
    const auto fits = [&] {
      return !result_ || next_ >= tensors_.size() || in_flight_ == 0 ||
             in_flight_ + making_bytes(tensors_[next_].first) <= options_.memory_budget;
    };
    wake_.wait(lock, fits);
    if (!result_ || next_ >= tensors_.size()) return nullptr;
    const auto* taken = &tensors_[next_++];
    in_flight_ += making_bytes(taken->first);
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
      if (mapped) release_pages(bytes.subspan(at, size));
      progress(static_cast<std::int64_t>(size));
    }
    return {};
  }

  void progress(std::int64_t bytes) {
    if (!options_.progress) return;
    const std::lock_guard lock(progress_mutex_);
    done_ += bytes;
    options_.progress(done_, size_);
  }

  void finish(std::int64_t bytes, Status status) {
    const std::lock_guard lock(mutex_);
    in_flight_ -= bytes;
    if (!status && result_) result_ = std::move(status);
    wake_.notify_all();
  }

  const PlacedTensors& tensors_;
  const std::int64_t size_;
  const SaveOptions& options_;
  PendingFile& file_;
  std::mutex mutex_, progress_mutex_;
  std::condition_variable wake_;
  std::size_t next_ = 0;
  std::int64_t in_flight_ = 0;
  std::int64_t done_ = 0;
  Status result_;
};

}  // namespace

Status write_tensors(const PlacedTensors& tensors, std::int64_t size, const SaveOptions& options, PendingFile& file) {
  return DataWriter(tensors, size, options, file).run();
}

}  // namespace onnxfold
