#include "exec/memory_pool.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <new>

namespace onnxfold {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kSmallest = 32 << 10;    // below this the system's allocator is as good
constexpr std::size_t kKeptBytes = 256 << 20;  // of idle memory, at least

void* fresh(std::size_t bytes) { return ::operator new(bytes, std::align_val_t(kAlignment)); }
void give_back(void* memory) { ::operator delete(memory, std::align_val_t(kAlignment)); }

class Pool {
 public:
  ~Pool() { clear(); }

  void* take(std::size_t bytes, std::size_t& got) {
    const std::lock_guard lock(mutex_);
    const auto found = idle_.lower_bound(bytes);
    if (found == idle_.end() || found->first > bytes + bytes / 4) return nullptr;
    void* memory = found->second;
    got = found->first;
    idle_bytes_ -= got;
    idle_.erase(found);
    count_taken(got);
    return memory;
  }

  void took(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    count_taken(bytes);
  }

  void put(void* memory, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    taken_bytes_ -= bytes;
    try {
      if (idle_bytes_ + bytes <= std::max(kKeptBytes, most_taken_ - taken_bytes_)) {
        idle_.emplace(bytes, memory);
        idle_bytes_ += bytes;
        return;
      }
    } catch (const std::bad_alloc&) {  // no room to remember the block: free it
    }
    give_back(memory);
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    for (const auto& [bytes, memory] : idle_) give_back(memory);
    idle_.clear();
    idle_bytes_ = 0;
    most_taken_ = taken_bytes_;
  }

 private:
  void count_taken(std::size_t bytes) {
    taken_bytes_ += bytes;
    most_taken_ = std::max(most_taken_, taken_bytes_);
    // What nothing asked for again must not add to the peak.
    while (idle_bytes_ > kKeptBytes && idle_bytes_ + taken_bytes_ > most_taken_) {
      const auto largest = std::prev(idle_.end());
      idle_bytes_ -= largest->first;
      give_back(largest->second);
      idle_.erase(largest);
    }
  }

  std::mutex mutex_;
  std::multimap<std::size_t, void*> idle_;  // by size
  std::size_t idle_bytes_ = 0;
  std::size_t taken_bytes_ = 0, most_taken_ = 0;  // in use now, and at most since the last clear
};

// Shared by the arrays, which may outlive every other static object.
const std::shared_ptr<Pool>& pool() {
  static const auto shared = std::make_shared<Pool>();
  return shared;
}

}  // namespace

std::size_t memory_limit() {
  static const std::size_t limit = [] {
    const long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || bytes <= 0) return std::numeric_limits<std::size_t>::max() / 2;
    return static_cast<std::size_t>(pages) * static_cast<std::size_t>(bytes);
  }();
  return limit;
}

std::shared_ptr<void> pooled_memory(std::size_t bytes) {
  if (bytes > memory_limit()) throw std::bad_alloc();
  bytes = std::max<std::size_t>(bytes, 1);
  if (bytes < kSmallest) return {fresh(bytes), give_back};
  std::size_t got = bytes;
  void* memory = pool()->take(bytes, got);
  if (memory == nullptr) {
    try {
      memory = fresh(bytes);
    } catch (const std::bad_alloc&) {
      pool()->clear();
      memory = fresh(bytes);
    }
    pool()->took(bytes);
  }
  return {memory, [owner = pool(), got](void* block) { owner->put(block, got); }};
}

void release_pooled_memory() { pool()->clear(); }

}  // namespace onnxfold
