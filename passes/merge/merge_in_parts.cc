#include "passes/merge/merge_in_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace onnxfold {
namespace {

// A tensor read from front to back. Pages of a file go back after every part; what is made on demand is made once.
class PartReader {
 public:
  explicit PartReader(const Tensor& tensor) : tensor_(tensor) {}

  // The packed bytes of these elements: a loan to be dropped before the next.
  Result<Bytes> bytes(std::int64_t first, std::int64_t count) {
    if (!kept_) {
      OF_ASSIGN(Bytes whole, tensor_.bytes());
      if (tensor_.file() != nullptr) return part_of(whole, first, count);
      all_ = std::move(whole);
      kept_ = true;
    }
    return part_of(all_, first, count);
  }

  Result<Numbers> numbers(std::int64_t first, std::int64_t count) {
    OF_ASSIGN(const Bytes part, bytes(first, count));
    return to_doubles(Tensor::owned(tensor_.dtype(), {count}, Buffer(part.span().begin(), part.span().end())));
  }

 private:
  Result<Bytes> part_of(const Bytes& whole, std::int64_t first, std::int64_t count) const {
    const std::int64_t bits = bit_width(tensor_.dtype());
    const auto begin = static_cast<std::size_t>(first * bits / 8),
               end = static_cast<std::size_t>(((first + count) * bits + 7) / 8);
    return Bytes(whole.span().subspan(begin, end - begin), std::make_shared<const Bytes>(whole));
  }

  const Tensor& tensor_;
  Bytes all_;
  bool kept_ = false;
};

// All models side by side, in parts.
class Parts {
 public:
  explicit Parts(const WeightMerge& merge) : merge_(merge), size_(merge.parents.back().size()) {
    for (const Tensor& parent : merge.parents) readers_.emplace_back(parent);
    if (merge.base.defined()) readers_.emplace_back(merge.base);
    input_.weights = merge.weights;
    input_.seed = merge.seed;
    input_.parents.resize(merge.parents.size());
  }

  void set_facts(WeightFacts* facts) { input_.facts = facts; }
  bool one_part() const { return size_ <= merge_.part; }

  // visit(part) for every part in order.
  template <typename F>
  Status each(F&& visit) {
    for (std::int64_t first = 0; first == 0 || first < size_; first += merge_.part) {
      const std::int64_t count = std::min(merge_.part, size_ - first);
      if (first != input_.first || !read_) OF_TRY(read(first, count));
      OF_TRY(visit(input_));
    }
    return {};
  }

 private:
  Status read(std::int64_t first, std::int64_t count) {
    for (std::size_t i = 0; i < readers_.size(); ++i) {
      const bool base = i == merge_.parents.size();
      OF_ASSIGN(Numbers values, readers_[i].numbers(first, count));
      const std::string name = base ? "the base model" : fmt::format("model {}", i + 1);
      OF_TRY(check(values, first, merge_.names.size() > i ? merge_.names[i] : name));
      (base ? input_.base : input_.parents[i]) = std::move(values);
    }
    input_.first = first;
    read_ = true;
    return {};
  }

  Status check(const Numbers& values, std::int64_t first, const std::string& model) const {
    const auto bad = std::find_if(values.begin(), values.end(), [](double x) { return !std::isfinite(x); });
    if (bad == values.end()) return {};
    return fail(Code::kInvalidArgument,
                fmt::format("weight '{}' of {} holds {} at element {}", merge_.name, model,
                            std::isnan(*bad) ? "NaN" : "infinity", first + (bad - values.begin())));
  }

  const WeightMerge& merge_;
  const std::int64_t size_;
  std::vector<PartReader> readers_;
  MergeInput input_;
  bool read_ = false;
};

}  // namespace

Result<bool> WeightMerge::same_everywhere() const {
  const std::int64_t size = parents.back().size();
  PartReader anchor(parents.back());
  for (std::size_t i = 0; i < parents.size(); ++i) {
    const Tensor& other = i + 1 == parents.size() ? base : parents[i];
    if (!other.defined() || other.same_as(parents.back())) continue;
    PartReader reader(other);
    for (std::int64_t first = 0; first < size; first += part) {
      const std::int64_t count = std::min(part, size - first);
      OF_ASSIGN(const Bytes x, anchor.bytes(first, count));
      OF_ASSIGN(const Bytes y, reader.bytes(first, count));
      if (x.size() != y.size() || std::memcmp(x.data(), y.data(), x.size()) != 0) return false;
    }
  }
  return true;
}

Result<Buffer> WeightMerge::anchor_bytes() const {
  Buffer bytes;
  bytes.reserve(static_cast<std::size_t>(parents.back().nbytes()));
  PartReader reader(parents.back());
  const std::int64_t size = parents.back().size();
  for (std::int64_t first = 0; first < size; first += part) {
    OF_ASSIGN(const Bytes some, reader.bytes(first, std::min(part, size - first)));
    bytes.insert(bytes.end(), some.span().begin(), some.span().end());
  }
  return bytes;
}

Result<Buffer> WeightMerge::operator()() const {
  OF_ASSIGN(const bool same, same_everywhere());
  if (same) return anchor_bytes();
  Parts parts(*this);
  const MergeMethod* method = find_merge_method(combine);
  std::unique_ptr<WeightFacts> facts;
  // Of a single part, methods find out themselves what they must know.
  if (!parts.one_part() && method != nullptr && method->facts != nullptr) {
    facts = method->facts(settings, parents.size(), parents.back().size());
    parts.set_facts(facts.get());
  }
  if (facts != nullptr) {
    do {
      OF_TRY(parts.each([&](const MergeInput& input) -> Status {
        facts->look(input);
        return {};
      }));
    } while (facts->another_pass());
  }
  Buffer bytes;
  bytes.reserve(static_cast<std::size_t>(parents.back().nbytes()));
  OF_TRY(parts.each([&](const MergeInput& input) -> Status {
    OF_ASSIGN(const Numbers merged, combine(input, settings));
    OF_ASSIGN(const Tensor rounded,
              from_doubles(parents.back().dtype(), {static_cast<std::int64_t>(merged.size())}, merged));
    OF_ASSIGN(const Bytes some, rounded.bytes());
    bytes.insert(bytes.end(), some.span().begin(), some.span().end());
    return {};
  }));
  return bytes;
}

}  // namespace onnxfold
