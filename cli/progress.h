// A bar with the time left, on stderr: only on a terminal, and only once a run has taken a second.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

namespace onnxfold::cli {

class Progress {
 public:
  explicit Progress(bool quiet);
  ~Progress();  // wipes the bar
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` runs from 0 to 1 within a phase; negative: unknown. May be called from any thread.
  void update(const std::string& phase, double done);

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(double done, Clock::time_point now) const;

  const bool enabled_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point phase_start_ = start_, drawn_{};
  std::string phase_;
  bool visible_ = false;
  std::mutex mutex_;
};

}  // namespace onnxfold::cli
