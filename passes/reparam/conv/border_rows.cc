#include "passes/reparam/conv/border_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ir/match.h"
#include "ir/numeric.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

constexpr std::int64_t kMostIndices = std::int64_t{1} << 26;

// Sets one entry a channel; false when another number is there.
bool set_number(Numbers& numbers, std::vector<bool>& known, std::size_t channel, double number) {
  if (known[channel] && numbers[channel] != number) return false;
  known[channel] = true;
  numbers[channel] = number;
  return std::isfinite(number);
}

std::vector<std::int64_t> product_below(const Dims& dims) {
  std::vector<std::int64_t> strides(dims.size(), 1);
  for (std::size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * dims[i];
  return strides;
}

// Position of the channel axis in `layout`.
std::size_t channel_place(const std::vector<std::size_t>& layout) {
  return static_cast<std::size_t>(std::find(layout.begin(), layout.end(), std::size_t{1}) - layout.begin());
}

std::optional<Numbers> numbers_of_constant(const Tensor& tensor, const std::vector<std::size_t>& layout,
                                           std::int64_t channels) {
  if (!is_float(tensor.dtype()) || tensor.size() == 0) return std::nullopt;
  const Dims& dims = tensor.dims();
  const std::size_t place = channel_place(layout);
  const std::int64_t count = place < dims.size() ? dims[place] : 1;
  if (count != 1 && count != channels) return std::nullopt;
  const auto values = to_doubles(tensor);
  if (!values) return std::nullopt;
  Numbers numbers(static_cast<std::size_t>(channels), 0.0);
  std::vector<bool> known(numbers.size(), false);
  const std::int64_t stride = place < dims.size() ? product_below(dims)[place] : 1;
  for (std::size_t i = 0; i < values->size(); ++i) {
    const auto channel = static_cast<std::size_t>(static_cast<std::int64_t>(i) / stride % count);
    if (!set_number(numbers, known, channel, (*values)[i])) return std::nullopt;
  }
  if (count == 1) std::fill(numbers.begin(), numbers.end(), numbers.front());
  return numbers;
}

// One axis of a value, followed up to where its length comes from.
struct Axis {
  const Value* value = nullptr;
  std::size_t index = 0;
};

Axis origin(Axis axis) {
  while (const Node* node = axis.value->producer()) {
    if (node->is("Transpose")) {
      const auto perm = node->attr_ints("perm");
      if (!perm || axis.index >= perm->size()) break;
      axis = {node->input(0), static_cast<std::size_t>((*perm)[axis.index])};
    } else if (node->is("ScatterND")) {
      axis.value = node->input(0);
    } else {
      break;
    }
  }
  return axis;
}

bool same_length(const Axis& a, const Axis& b) {
  const Axis x = origin(a), y = origin(b);
  if (x.value == y.value && x.index == y.index) return true;
  const auto dim = [](const Axis& axis) {
    const Type& type = axis.value->type();
    return type.is_tensor() && type.shape && axis.index < type.shape->size() ? (*type.shape)[axis.index] : Dim{};
  };
  const Dim left = dim(x), right = dim(y);
  if (left.known() && right.known()) return *left.value == *right.value;
  return !left.symbol.empty() && left.symbol == right.symbol;
}

// The axis whose length `value` is: Gather of a Shape, or a Shape of one axis.
std::optional<Axis> axis_measured(const Value* value) {
  std::optional<std::int64_t> place;
  while (const Node* node = value->producer()) {
    if (node->is("Shape")) {
      const std::int64_t start = node->attr_int("start", 0);
      const std::int64_t end = node->attr_int("end", node->input(0)->rank().value_or(start + 2));
      const std::int64_t index = start + place.value_or(0);
      if (start < 0 || index < start || (!place && end != start + 1)) return std::nullopt;
      return Axis{node->input(0), static_cast<std::size_t>(index)};
    }
    if (node->is("Gather")) {
      const auto index = scalar_constant(node->input(1));
      if (place || !index || *index < 0) return std::nullopt;
      place = static_cast<std::int64_t>(*index);
    } else if (!node->is("Squeeze") && !node->is("Unsqueeze") && !node->is("Reshape") && !node->is("Cast")) {
      return std::nullopt;
    }
    value = node->input(0);
  }
  return std::nullopt;
}

// Constant row numbers, or Range(0, length of `axis`, 1)[a:b]: what exporters write for a slice of an axis.
std::optional<std::set<std::int64_t>> row_numbers(const Value* value, const Axis& axis, ShapeArithmetic& shapes) {
  constexpr std::int64_t kMostRows = 1024;
  if (const auto constants = int_constants(value)) return std::set<std::int64_t>(constants->begin(), constants->end());
  while (value->producer() != nullptr && (value->producer()->is("Unsqueeze") || value->producer()->is("Reshape"))) {
    value = value->producer()->input(0);
  }
  const Node* slice = value->producer();
  if (slice == nullptr || !slice->is("Slice")) return std::nullopt;
  const Node* range = slice->input(0)->producer();
  const auto given = slice_ranges(*slice, shapes);
  if (range == nullptr || !range->is("Range") || !given || given->size() != 1) return std::nullopt;
  if (scalar_constant(range->input(0)) != 0.0 || scalar_constant(range->input(2)) != 1.0) return std::nullopt;
  const auto measured = axis_measured(range->input(1));
  const SliceRange& rows = given->front();
  if (!measured || !same_length(*measured, axis) || rows.step != 1) return std::nullopt;
  const bool last = rows.start < 0 && rows.start >= -kMostRows && rows.end > std::numeric_limits<std::int32_t>::max();
  const bool first = rows.start >= 0 && rows.end > rows.start && rows.end <= kMostRows;
  if (!last && !first) return std::nullopt;
  std::set<std::int64_t> found;
  for (std::int64_t row = rows.start; row < (last ? 0 : rows.end); ++row) found.insert(row);
  return found;
}

// Every element of `dims` that the index tuples name, in row-major order.
std::optional<std::vector<bool>> marked(const std::vector<std::int64_t>& indices, const Dims& dims) {
  const std::vector<std::int64_t> strides = product_below(dims);
  std::vector<bool> found(static_cast<std::size_t>(strides[0] * dims[0]), false);
  for (std::size_t i = 0; i + dims.size() <= indices.size(); i += dims.size()) {
    std::int64_t at = 0;
    for (std::size_t axis = 0; axis < dims.size(); ++axis) {
      const std::int64_t index = indices[i + axis] < 0 ? indices[i + axis] + dims[axis] : indices[i + axis];
      if (index < 0 || index >= dims[axis]) return std::nullopt;
      at += index * strides[axis];
    }
    found[static_cast<std::size_t>(at)] = true;
  }
  return found;
}

// The index tuples of a ScatterND that names single elements.
std::optional<std::vector<std::int64_t>> element_indices(const Node& scatter, std::size_t rank) {
  const Tensor* tensor = constant(scatter.input(1));
  if (tensor == nullptr || tensor->dtype() != DType::kInt64 || tensor->rank() < 1 || tensor->size() > kMostIndices ||
      tensor->dims().back() != static_cast<std::int64_t>(rank)) {
    return std::nullopt;
  }
  const auto numbers = to_doubles(*tensor);
  if (!numbers) return std::nullopt;
  std::vector<std::int64_t> indices(numbers->size());
  std::transform(numbers->begin(), numbers->end(), indices.begin(),
                 [](double number) { return static_cast<std::int64_t>(number); });
  return indices;
}

// Whole rows along one axis that make up all that is marked.
std::optional<std::set<std::int64_t>> whole_rows(const std::vector<bool>& written, const Dims& dims, std::size_t axis) {
  const std::int64_t stride = product_below(dims)[axis], length = dims[axis];
  std::vector<std::int64_t> counts(static_cast<std::size_t>(length), 0);
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (written[i]) ++counts[static_cast<std::size_t>(static_cast<std::int64_t>(i) / stride % length)];
  }
  std::set<std::int64_t> rows;
  const std::int64_t all = static_cast<std::int64_t>(written.size()) / length;
  for (std::int64_t row = 0; row < length; ++row) {
    const std::int64_t count = counts[static_cast<std::size_t>(row)];
    if (count != 0 && count != all) return std::nullopt;
    if (count == all) rows.insert(row);
  }
  return rows;
}

std::optional<WrittenRows> rows_by_element(const Node& scatter, const std::vector<std::size_t>& layout,
                                           ShapeArithmetic& shapes) {
  const auto extents = shapes.dims(scatter.input(0));
  const auto indices = element_indices(scatter, layout.size());
  if (!extents || !indices) return std::nullopt;
  Dims dims;
  std::int64_t count = 1;
  for (const auto& extent : *extents) {
    if (!extent || *extent < 1 || *extent > kMostIndices / count) return std::nullopt;
    count *= *extent;
    dims.push_back(*extent);
  }
  const auto written = marked(*indices, dims);
  if (!written) return std::nullopt;
  for (std::size_t place = 0; place < layout.size(); ++place) {
    if (layout[place] < 2) continue;
    const auto rows = whole_rows(*written, dims, place);
    if (rows && !rows->empty() && static_cast<std::int64_t>(rows->size()) < dims[place]) {
      return WrittenRows{layout[place], *rows, true};
    }
  }
  return std::nullopt;
}

}  // namespace

void BorderRows::shrink(std::int64_t before, std::int64_t after) {
  std::set<std::int64_t> inner;
  for (const std::int64_t row : rows_) {
    if (row >= before) inner.insert(row - before);
    if (row < -after) inner.insert(row + after);
  }
  rows_ = std::move(inner);
}

bool BorderRows::are(std::int64_t before, std::int64_t after, std::optional<std::int64_t> length) const {
  std::set<std::int64_t> wanted, found;
  for (std::int64_t row = 0; row < before; ++row) wanted.insert(row);
  for (std::int64_t row = -after; row < 0; ++row) wanted.insert(row);
  for (std::int64_t row : rows_) {
    if (row >= before && length) row -= *length;
    if (row < -after && length) row += *length;
    found.insert(row);
  }
  return found == wanted;
}

std::optional<WrittenRows> written_rows(const Node& scatter, const std::vector<std::size_t>& layout,
                                        ShapeArithmetic& shapes) {
  const auto extents = shapes.dims(scatter.input(1));
  if (!extents || extents->empty() || !extents->back()) return std::nullopt;
  if (*extents->back() == 1 && extents->size() == 2 && layout.size() > 1) {
    const auto rows = row_numbers(scatter.input(1), {scatter.input(0), 0}, shapes);
    if (!rows) return std::nullopt;
    return WrittenRows{layout.front(), *rows, false};
  }
  return rows_by_element(scatter, layout, shapes);
}

std::optional<Numbers> scattered_numbers(const Node& scatter, const std::vector<std::size_t>& layout,
                                         std::int64_t channels) {
  const auto indices = element_indices(scatter, layout.size());
  const Tensor* updates = constant(scatter.input(2));
  if (!indices || updates == nullptr) return std::nullopt;
  const auto values = to_doubles(*updates);
  const std::size_t rank = layout.size(), place = channel_place(layout);
  if (!values || values->size() * rank != indices->size()) return std::nullopt;
  Numbers numbers(static_cast<std::size_t>(channels), 0.0);
  std::vector<bool> known(numbers.size(), false);
  for (std::size_t i = 0; i < values->size(); ++i) {
    const std::int64_t index = (*indices)[i * rank + place];
    const std::int64_t channel = index < 0 ? index + channels : index;
    if (channel < 0 || channel >= channels) return std::nullopt;
    if (!set_number(numbers, known, static_cast<std::size_t>(channel), (*values)[i])) return std::nullopt;
  }
  return numbers;
}

std::optional<Numbers> channel_numbers(const Value* value, std::vector<std::size_t> layout, std::int64_t channels) {
  constexpr int kLongestChain = 16;
  for (int step = 0; value != nullptr && step < kLongestChain; ++step) {
    if (const Tensor* tensor = constant(value)) {
      const auto rank = static_cast<std::size_t>(tensor->rank());
      if (rank > layout.size()) return std::nullopt;
      layout.erase(layout.begin(), layout.end() - static_cast<std::ptrdiff_t>(rank));
      return numbers_of_constant(*tensor, layout, channels);
    }
    const Node* node = value->producer();
    if (node == nullptr) return std::nullopt;
    if (node->is("Transpose")) {
      const auto perm = node->attr_ints("perm");
      if (!perm || perm->size() != layout.size()) return std::nullopt;
      std::vector<std::size_t> before(layout.size());
      for (std::size_t i = 0; i < before.size(); ++i) before[static_cast<std::size_t>((*perm)[i])] = layout[i];
      layout = std::move(before);
    } else if (node->is("Expand")) {  // its input may have fewer axes, aligned at the last
      const auto rank = node->input(0)->rank();
      if (!rank || static_cast<std::size_t>(*rank) > layout.size()) return std::nullopt;
      layout.erase(layout.begin(), layout.end() - static_cast<std::ptrdiff_t>(*rank));
    } else {
      return std::nullopt;
    }
    value = node->input(0);
  }
  return std::nullopt;
}

}  // namespace onnxfold
