#include "exec/broadcast.h"

#include <fmt/ranges.h>

namespace onnxfold {

std::optional<Dims> broadcast_dims(const Dims& a, const Dims& b) {
  const Dims& longer = a.size() >= b.size() ? a : b;
  const Dims& shorter = a.size() >= b.size() ? b : a;
  Dims out = longer;
  const std::size_t shift = longer.size() - shorter.size();
  for (std::size_t i = 0; i < shorter.size(); ++i) {
    std::int64_t& dim = out[shift + i];
    if (dim == 1) {
      dim = shorter[i];
    } else if (shorter[i] != 1 && shorter[i] != dim) {
      return std::nullopt;
    }
  }
  return out;
}

std::optional<Dims> broadcast_dims(std::initializer_list<const Dims*> operands) {
  std::optional<Dims> out = Dims{};
  for (const Dims* dims : operands) {
    if (out) out = broadcast_dims(*out, *dims);
  }
  return out;
}

std::string dims_text(const Dims& dims) { return fmt::format("[{}]", fmt::join(dims, ",")); }

Dims row_major_strides(const Dims& dims) {
  Dims strides(dims.size());
  std::int64_t stride = 1;
  for (std::size_t i = dims.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= dims[i];
  }
  return strides;
}

namespace internal {
namespace {

// Strides of an operand against the output's axes: 0 where it is broadcast.
Dims aligned_strides(const Dims& out, const Dims& operand) {
  const Dims own = row_major_strides(operand);
  Dims strides(out.size(), 0);
  const std::size_t shift = out.size() - operand.size();
  for (std::size_t i = 0; i < operand.size(); ++i) strides[shift + i] = operand[i] == 1 ? 0 : own[i];
  return strides;
}

}  // namespace

BroadcastLoops broadcast_loops(const Dims& out, const Dims* const* operands, std::size_t count) {
  std::vector<Dims> full(count);
  for (std::size_t k = 0; k < count; ++k) full[k] = aligned_strides(out, *operands[k]);
  BroadcastLoops loops;
  loops.strides.resize(count);
  for (std::size_t axis = 0; axis < out.size(); ++axis) {
    if (out[axis] == 1) continue;
    bool mergeable = !loops.dims.empty();
    for (std::size_t k = 0; k < count && mergeable; ++k) {
      mergeable = loops.strides[k].back() == full[k][axis] * out[axis];
    }
    if (mergeable) {
      loops.dims.back() *= out[axis];
    } else {
      loops.dims.push_back(out[axis]);
    }
    for (std::size_t k = 0; k < count; ++k) {
      if (mergeable) {
        loops.strides[k].back() = full[k][axis];
      } else {
        loops.strides[k].push_back(full[k][axis]);
      }
    }
  }
  if (loops.dims.empty()) {
    loops.dims.push_back(1);
    for (Dims& strides : loops.strides) strides.push_back(1);
  }
  return loops;
}

template <std::size_t N>
void all_runs(const Dims& out, const std::array<const Dims*, N>& operands, RunFn<N> run, void* context) {
  const BroadcastLoops loops = broadcast_loops(out, operands.data(), N);
  const std::int64_t total = element_count(out), inner = loops.dims.back();
  if (total == 0) return;
  const std::size_t axes = loops.dims.size();
  parallel_for(total, kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<std::int64_t, N> offsets{}, steps{};
    for (std::size_t k = 0; k < N; ++k) steps[k] = loops.strides[k][axes - 1];
    for (std::int64_t position = begin; position < end;) {
      std::int64_t row = position / inner;
      const std::int64_t column = position - row * inner;
      for (std::size_t k = 0; k < N; ++k) offsets[k] = column * steps[k];
      for (std::size_t axis = axes - 1; axis-- > 0 && row != 0;) {
        const std::int64_t index = row % loops.dims[axis];
        row /= loops.dims[axis];
        for (std::size_t k = 0; k < N; ++k) offsets[k] += index * loops.strides[k][axis];
      }
      const std::int64_t length = std::min(inner - column, end - position);
      run(context, position, length, offsets, steps);
      position += length;
    }
  });
}

template void all_runs<1>(const Dims&, const std::array<const Dims*, 1>&, RunFn<1>, void*);
template void all_runs<2>(const Dims&, const std::array<const Dims*, 2>&, RunFn<2>, void*);
template void all_runs<3>(const Dims&, const std::array<const Dims*, 3>&, RunFn<3>, void*);

}  // namespace internal
}  // namespace onnxfold
