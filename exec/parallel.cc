#include "exec/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "exec/executor.h"

namespace onnxfold {
namespace {

// OMP_NUM_THREADS is honoured because people set it; without it, the processors this process may use.
int default_threads() {
  const char* given = std::getenv("OMP_NUM_THREADS");
  const int wanted = given == nullptr ? 0 : std::atoi(given);
  return std::max(1, wanted > 0 ? wanted : static_cast<int>(std::thread::hardware_concurrency()));
}

std::atomic<int>& thread_setting() {
  static std::atomic<int> setting{default_threads()};
  return setting;
}

thread_local bool inside_job = false;

// Ranges of one parallel_ranges call, taken by whoever is free: on a busy machine a thread that does not get its core
// would otherwise hold up the rest.
struct Job {
  internal::RangeFn run = nullptr;
  void* context = nullptr;
  std::int64_t n = 0, ranges = 0;
  std::atomic<std::int64_t> next{0}, done{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;

  void work() {
    inside_job = true;
    for (std::int64_t i = next++; i < ranges; i = next++) {
      const std::int64_t share = n / ranges, rest = n % ranges;
      const std::int64_t begin = i * share + std::min(i, rest);
      try {
        run(context, begin, begin + share + (i < rest ? 1 : 0));
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        if (!failure) failure = std::current_exception();
      }
      ++done;
    }
    inside_job = false;
  }
  bool finished() const { return done.load() == ranges; }
};

// Threads that sleep between jobs. They spin only for a moment: an OpenMP runtime that spins at its barriers made runs
// ten times slower on a machine that had other work.
class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // False when another thread uses the pool: the caller then works alone.
  bool run(Job& job, std::int64_t workers) {
    const std::unique_lock use(in_use_, std::try_to_lock);
    if (!use.owns_lock()) return false;
    {
      const std::lock_guard lock(mutex_);
      while (static_cast<std::int64_t>(workers_.size()) < workers - 1) workers_.emplace_back([this] { serve(); });
      job_ = &job;
      wanted_ = workers - 1;
      ++generation_;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock lock(mutex_);
    wanted_ = 0;  // whoever has not begun need not
    idle_.wait(lock, [&] { return active_ == 0 && job.finished(); });
    job_ = nullptr;
    return true;
  }

 private:
  void serve() {
    std::uint64_t seen = 0;
    for (std::unique_lock lock(mutex_);;) {
      wake_.wait(lock, [&] { return stop_ || (generation_ != seen && wanted_ > 0); });
      if (stop_) return;
      seen = generation_;
      --wanted_;
      ++active_;
      Job& job = *job_;
      lock.unlock();
      job.work();
      lock.lock();
      if (--active_ == 0) idle_.notify_one();
    }
  }

  std::mutex in_use_, mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  std::int64_t wanted_ = 0, active_ = 0;
  std::uint64_t generation_ = 0;
  bool stop_ = false;
};

Pool& pool() {
  static Pool instance;
  return instance;
}

constexpr std::int64_t kRangesPerThread = 4;

}  // namespace

void set_threads(int threads) { thread_setting() = std::max(1, threads); }

int threads() { return thread_setting(); }

namespace internal {

void parallel_ranges(std::int64_t n, std::int64_t grain, RangeFn run, void* context) {
  if (n <= 0) return;
  const std::int64_t useful = n / std::max<std::int64_t>(grain, 1);
  const std::int64_t workers = std::min<std::int64_t>(threads(), useful);
  if (workers <= 1 || inside_job) {
    run(context, 0, n);
    return;
  }
  Job job;
  job.run = run;
  job.context = context;
  job.n = n;
  job.ranges = std::min(workers * kRangesPerThread, useful);
  if (!pool().run(job, workers)) {
    run(context, 0, n);
    return;
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace internal
}  // namespace onnxfold
