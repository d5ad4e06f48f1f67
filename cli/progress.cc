#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace onnxfold::cli {
namespace {

using std::chrono::duration;

constexpr auto kPatience = std::chrono::seconds(1);
constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr int kWidth = 30;

}  // namespace

Progress::Progress(bool quiet) : enabled_(!quiet && isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (visible_) std::fputs("\r\033[K", stderr);
}

std::string Progress::line(double done, Clock::time_point now) const {
  if (done < 0) return fmt::format("{}  {:.0f} s", phase_, duration<double>(now - start_).count());
  const int filled = static_cast<int>(std::lround(done * kWidth));
  std::string text = fmt::format("{} [{:=<{}}{: <{}}] {:3.0f} %", phase_, "", filled, "", kWidth - filled, 100 * done);
  if (done > 0.01) {
    const double left = duration<double>(now - phase_start_).count() * (1 - done) / done;
    text += fmt::format("  {:.0f} s left", std::ceil(left));
  }
  return text;
}

void Progress::update(const std::string& phase, double done) {
  if (!enabled_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const Clock::time_point now = Clock::now();
  if (phase != phase_) {
    // Passes follow each other within one bar; a phase of its own starts when the bar falls back.
    phase_ = phase;
    if (done <= 0) phase_start_ = now;
  }
  if (now - start_ < kPatience || now - drawn_ < kRedraw) return;
  drawn_ = now;
  visible_ = true;
  std::fputs(("\r\033[K" + line(std::min(done, 1.0), now)).c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace onnxfold::cli
