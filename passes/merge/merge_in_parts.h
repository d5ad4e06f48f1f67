// One weight of all models merged part by part: what is held at one time are a part of every model in doubles and the
// result in its own type.
#pragma once

#include <string>
#include <vector>

#include "ir/tensor.h"
#include "passes/merge/method.h"

namespace onnxfold {

constexpr std::int64_t kMergePart = 1 << 20;  // elements

// Called when the bytes are asked for. Same bits whatever the size of parts.
struct WeightMerge {
  std::string name;
  std::vector<Tensor> parents;
  Tensor base;  // undefined without one
  std::vector<double> weights;
  MergeSettings settings;
  MergeFunction combine;
  std::uint64_t seed;
  std::int64_t part = kMergePart;       // elements; a multiple of 8
  std::vector<std::string> names = {};  // of the parents and the base, for errors; empty: "model 1", ...

  // Errors: invalid_argument, naming weight, model and element, for NaN and infinity; the method's; a source's.
  Result<Buffer> operator()() const;

 private:
  Result<bool> same_everywhere() const;
  Result<Buffer> anchor_bytes() const;
};

}  // namespace onnxfold
