#include "passes/tie/deferred_tie.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace onnxfold {
namespace {

constexpr std::size_t kKept = 2;  // fits: a writer with several threads is at the end of one and the start of the next

// Columns of a, rows of b.
void fill_up(LowRank& pair, std::int64_t in, std::int64_t out, std::int64_t rank) {
  if (pair.a.cols == rank) return;
  Matrix a(in, rank), b(rank, out);
  for (std::int64_t row = 0; row < pair.a.rows; ++row) {
    std::copy_n(pair.a.data.begin() + row * pair.a.cols, pair.a.cols, a.data.begin() + row * rank);
  }
  std::copy(pair.b.data.begin(), pair.b.data.end(), b.data.begin());
  pair.a = std::move(a);
  pair.b = std::move(b);
}

}  // namespace

std::int64_t fit_bytes(const TieWeights& weights) {
  const std::int64_t in = weights.lower.in, out = weights.lower.out, side = std::min(in, out);
  return (3 * in * out + 4 * side * side) * static_cast<std::int64_t>(sizeof(double));
}

class DeferredTies::Room {
 public:
  explicit Room(std::int64_t bytes) : bytes_(bytes) {}

  void enter(std::int64_t bytes) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return taken_ == 0 || taken_ + bytes <= bytes_; });
    taken_ += bytes;
  }

  void leave(std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    taken_ -= bytes;
    wake_.notify_all();
  }

  void keep(const Fit* fit, std::vector<Tensor> parts) {
    const std::lock_guard lock(mutex_);
    forget_locked(fit);
    kept_.push_back({fit, std::move(parts)});
    if (kept_.size() > kKept) kept_.pop_front();
  }

  // Gives it away; undefined when it is not there (any more).
  Tensor take(const Fit* fit, std::size_t part) {
    const std::lock_guard lock(mutex_);
    for (Kept& kept : kept_) {
      if (kept.fit == fit) return std::exchange(kept.parts[part], Tensor());
    }
    return {};
  }

  void forget(const Fit* fit) {
    const std::lock_guard lock(mutex_);
    forget_locked(fit);
  }

 private:
  struct Kept {
    const Fit* fit;
    std::vector<Tensor> parts;
  };

  void forget_locked(const Fit* fit) {
    const auto is_it = [fit](const Kept& kept) { return kept.fit == fit; };
    kept_.erase(std::remove_if(kept_.begin(), kept_.end(), is_it), kept_.end());
  }

  const std::int64_t bytes_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::int64_t taken_ = 0;
  std::deque<Kept> kept_;
};

// One group. Parts: the shared weight, then A and B of each member.
class DeferredTies::Fit {
 public:
  Fit(std::shared_ptr<Room> room, TieWeights weights, const TieOptions& options, std::int64_t rank,
      std::vector<std::int64_t> ranks)
      : room_(std::move(room)),
        weights_(std::move(weights)),
        options_(options),
        rank_(rank),
        ranks_(std::move(ranks)) {}
  ~Fit() { room_->forget(this); }
  Fit(const Fit&) = delete;
  Fit& operator=(const Fit&) = delete;

  Result<Buffer> part(std::size_t number) {
    const std::lock_guard lock(mutex_);
    Tensor made = room_->take(this, number);
    if (!made.defined()) {
      const std::int64_t bytes = fit_bytes(weights_);
      room_->enter(bytes);
      auto parts = make();
      room_->leave(bytes);
      if (!parts) return fail(parts.error());
      made = std::exchange((*parts)[number], Tensor());
      room_->keep(this, std::move(*parts));
    }
    OF_ASSIGN(const Bytes data, made.bytes());
    return Buffer(data.span().begin(), data.span().end());
  }

 private:
  Result<std::vector<Tensor>> make() const {
    OF_ASSIGN(const SharedFitter fitter, plain_fitter_of(weights_));
    OF_ASSIGN(SharedFit fit, fit_weights(weights_, fitter, options_, rank_));
    for (std::size_t l = 0; l < ranks_.size(); ++l) {
      if (ranks_[l] > 0) fill_up(fit.corrections[l], weights_.lower.in, weights_.lower.out, ranks_[l]);
    }
    OF_ASSIGN(TiedTensors tensors, rounded(fit, weights_.members.front().tensor.dtype()));
    std::vector<Tensor> parts{std::move(tensors.shared)};
    for (auto& [a, b] : tensors.factors) {
      parts.push_back(std::move(a));
      parts.push_back(std::move(b));
    }
    return parts;
  }

  const std::shared_ptr<Room> room_;
  const TieWeights weights_;
  const TieOptions options_;
  const std::int64_t rank_;
  const std::vector<std::int64_t> ranks_;
  std::mutex mutex_;
};

DeferredTies::DeferredTies(std::int64_t room) : room_(std::make_shared<Room>(room)) {}

TiedTensors DeferredTies::tensors_of(const TieWeights& weights, const TieOptions& options, std::int64_t rank,
                                     const std::vector<std::int64_t>& ranks) {
  const auto fit = std::make_shared<Fit>(room_, weights, options, rank, ranks);
  const DType dtype = weights.members.front().tensor.dtype();
  const std::int64_t in = weights.lower.in, out = weights.lower.out;
  const auto part = [fit](std::size_t number) { return [fit, number] { return fit->part(number); }; };
  TiedTensors tensors{Tensor::deferred(dtype, {in, out}, part(0)), {}};
  for (std::size_t l = 0; l < ranks.size(); ++l) {
    auto& [a, b] = tensors.factors.emplace_back();
    if (ranks[l] == 0) continue;
    a = Tensor::deferred(dtype, {in, ranks[l]}, part(1 + 2 * l));
    b = Tensor::deferred(dtype, {ranks[l], out}, part(2 + 2 * l));
  }
  return tensors;
}

}  // namespace onnxfold
