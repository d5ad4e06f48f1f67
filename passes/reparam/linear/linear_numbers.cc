#include "passes/reparam/linear/linear_numbers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "ir/match.h"
#include "ir/numeric.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// Larger weights are made when they are asked for.
constexpr std::int64_t kMadeAtOnce = 1 << 16;  // elements

bool finite_in(DType dtype, double number) { return std::isfinite(round_to(dtype, number)); }

}  // namespace

Result<LinearNumbers> linear_numbers(const Linear& linear) {
  LinearNumbers numbers{linear.in, linear.out, linear.weight->constant()->dtype(), {}, {}};
  // The tensor is kept and not the value, which the rewrite erases.
  numbers.weight = [tensor = *linear.weight->constant(), in = linear.in, out = linear.out,
                    turned = linear.stored_out_in, alpha = linear.alpha]() -> Result<Matrix> {
    OF_ASSIGN(std::vector<double> stored, to_doubles(tensor));
    if (alpha != 1) {
      for (double& number : stored) number *= alpha;
    }
    if (!turned) return Matrix(in, out, std::move(stored));
    Matrix matrix(in, out);
    for (std::int64_t row = 0; row < in; ++row) {
      for (std::int64_t col = 0; col < out; ++col) {
        matrix.at(row, col) = stored[static_cast<std::size_t>(col * in + row)];
      }
    }
    return matrix;
  };
  if (linear.bias != nullptr) {
    OF_ASSIGN(numbers.bias, bias_vector(linear));
  }
  return numbers;
}

MatrixFn scaled_rows(MatrixFn matrix, Numbers rows) {
  return [matrix = std::move(matrix), rows = std::move(rows)]() -> Result<Matrix> {
    OF_ASSIGN(Matrix made, matrix());
    for (std::int64_t row = 0; row < made.rows; ++row) {
      for (std::int64_t col = 0; col < made.cols; ++col) made.at(row, col) *= rows[static_cast<std::size_t>(row)];
    }
    return made;
  };
}

MatrixFn scaled_columns(MatrixFn matrix, Numbers columns) {
  return [matrix = std::move(matrix), columns = std::move(columns)]() -> Result<Matrix> {
    OF_ASSIGN(Matrix made, matrix());
    for (std::int64_t row = 0; row < made.rows; ++row) {
      for (std::int64_t col = 0; col < made.cols; ++col) made.at(row, col) *= columns[static_cast<std::size_t>(col)];
    }
    return made;
  };
}

MatrixFn lazy_identity(std::int64_t size) {
  return [size]() -> Result<Matrix> { return identity_matrix(size); };
}

MatrixFn product(MatrixFn left, MatrixFn right) {
  return [left = std::move(left), right = std::move(right)]() -> Result<Matrix> {
    OF_ASSIGN(const Matrix a, left());
    OF_ASSIGN(const Matrix b, right());
    return product(a, b);
  };
}

MatrixFn sum(std::vector<MatrixFn> parts) {
  return [parts = std::move(parts)]() -> Result<Matrix> {
    OF_ASSIGN(Matrix made, parts.front()());
    for (std::size_t i = 1; i < parts.size(); ++i) {
      OF_ASSIGN(const Matrix part, parts[i]());
      for (std::size_t k = 0; k < made.data.size(); ++k) made.data[k] += part.data[k];
    }
    return made;
  };
}

MatrixFn beside(std::vector<MatrixFn> parts) {
  return [parts = std::move(parts)]() -> Result<Matrix> {
    std::vector<Matrix> made;
    std::int64_t cols = 0;
    for (const MatrixFn& part : parts) {
      OF_ASSIGN(Matrix matrix, part());
      cols += matrix.cols;
      made.push_back(std::move(matrix));
    }
    Matrix joined(made.front().rows, cols, {});
    joined.data.reserve(static_cast<std::size_t>(joined.rows * cols));
    for (std::int64_t row = 0; row < joined.rows; ++row) {
      for (const Matrix& part : made) {
        const auto begin = part.data.begin() + row * part.cols;
        joined.data.insert(joined.data.end(), begin, begin + part.cols);
      }
    }
    return joined;
  };
}

MatrixFn rows_of(MatrixFn matrix, std::vector<Stretch> stretches) {
  return [matrix = std::move(matrix), stretches = std::move(stretches)]() -> Result<Matrix> {
    OF_ASSIGN(const Matrix whole, matrix());
    Matrix made(0, whole.cols, {});
    for (const Stretch& stretch : stretches) {
      made.rows += stretch.end - stretch.begin;
      made.data.insert(made.data.end(), whole.data.begin() + stretch.begin * whole.cols,
                       whole.data.begin() + stretch.end * whole.cols);
    }
    return made;
  };
}

MatrixFn columns_of(MatrixFn matrix, std::vector<Stretch> stretches) {
  return [matrix = std::move(matrix), stretches = std::move(stretches)]() -> Result<Matrix> {
    OF_ASSIGN(const Matrix whole, matrix());
    Matrix made(whole.rows, 0, {});
    for (const Stretch& stretch : stretches) made.cols += stretch.end - stretch.begin;
    made.data.reserve(static_cast<std::size_t>(made.rows * made.cols));
    for (std::int64_t row = 0; row < whole.rows; ++row) {
      const auto begin = whole.data.begin() + row * whole.cols;
      for (const Stretch& stretch : stretches) {
        made.data.insert(made.data.end(), begin + stretch.begin, begin + stretch.end);
      }
    }
    return made;
  };
}

Numbers elements_of(const Numbers& numbers, const std::vector<Stretch>& stretches) {
  Numbers made;
  for (const Stretch& stretch : stretches) {
    made.insert(made.end(), numbers.begin() + stretch.begin, numbers.begin() + stretch.end);
  }
  return made;
}

Result<Numbers> row_times(const Numbers& vector, const MatrixFn& matrix) {
  OF_ASSIGN(const Matrix made, matrix());
  Numbers result(static_cast<std::size_t>(made.cols), 0.0);
  for (std::int64_t row = 0; row < made.rows; ++row) {
    const double factor = vector[static_cast<std::size_t>(row)];
    for (std::int64_t col = 0; col < made.cols; ++col) {
      result[static_cast<std::size_t>(col)] += factor * made.at(row, col);
    }
  }
  return result;
}

std::optional<Numbers> last_axis_numbers(const Value* value, std::int64_t width, std::optional<int> rank) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || !is_float(tensor->dtype()) || width <= 0) return {};
  const std::int64_t size = tensor->size();
  if (tensor->rank() > rank.value_or(1)) return {};
  if (size != 1 && (size != width || tensor->dims().back() != width)) return {};
  auto numbers = to_doubles(*tensor);
  if (!numbers || static_cast<std::int64_t>(numbers->size()) != size) return {};
  if (size == 1) numbers->resize(static_cast<std::size_t>(width), numbers->front());
  const bool finite =
      std::all_of(numbers->begin(), numbers->end(), [](double number) { return std::isfinite(number); });
  if (!finite) return {};
  return std::move(*numbers);
}

std::int64_t shared_bytes(const Linear& linear) {
  for (const Value* value = linear.product->input(1);; value = value->producer()->input(0)) {
    if (value->uses().size() > 1 || value->is_graph_output()) return linear.weight->constant()->nbytes();
    if (value == linear.weight) return 0;
  }
}

Result<bool> representable(const LinearNumbers& numbers) {
  const auto fits = [&](double number) { return finite_in(numbers.dtype, number); };
  if (numbers.bias && !std::all_of(numbers.bias->begin(), numbers.bias->end(), fits)) return false;
  if (numbers.dtype != DType::kFloat16) return true;
  OF_ASSIGN(const Matrix matrix, numbers.weight());
  return std::all_of(matrix.data.begin(), matrix.data.end(), fits);
}

LinearNames names_of(const Linear& linear) {
  const std::string& output = linear.output->name();
  return {linear.product->name, linear.weight->name(), linear.bias != nullptr ? linear.bias->name() : output + "_bias"};
}

Result<Tensor> weight_tensor(const LinearNumbers& numbers, const std::string& name) {
  const Dims dims{numbers.in, numbers.out};
  DeferredFn make = [weight = numbers.weight, dtype = numbers.dtype, dims, name]() -> Result<Buffer> {
    auto matrix = weight();
    if (!matrix) return fail(matrix.error().in(fmt::format("weight '{}'", name)));
    OF_ASSIGN(const Tensor tensor, from_doubles(dtype, dims, matrix->data));
    OF_ASSIGN(const Bytes bytes, tensor.bytes());
    return Buffer(bytes.span().begin(), bytes.span().end());
  };
  if (element_count(dims) > kMadeAtOnce) return Tensor::deferred(numbers.dtype, dims, std::move(make));
  OF_ASSIGN(Buffer buffer, make());
  return Tensor::owned(numbers.dtype, dims, std::move(buffer));
}

Result<Value*> insert_linear(Graph& graph, const LinearNumbers& numbers, Value& input, bool gemm,
                             const OutputSpec& output, const LinearNames& names, const Node* before) {
  OF_ASSIGN(Tensor weight, weight_tensor(numbers, names.weight));
  Tensor bias;
  if (numbers.bias) {
    OF_ASSIGN(bias, from_doubles(numbers.dtype, {numbers.out}, *numbers.bias));
  }
  std::vector<Value*> inputs{&input, add_constant(graph, std::move(weight), names.weight)};
  Value* addend = bias.defined() ? add_constant(graph, std::move(bias), names.bias) : nullptr;
  if (gemm && addend != nullptr) inputs.push_back(addend);
  const bool adds = !gemm && addend != nullptr;
  Node* product = graph.insert({.op_type = gemm ? "Gemm" : "MatMul",
                                .inputs = std::move(inputs),
                                .outputs = {{adds ? output.name + "_product" : output.name, output.type}},
                                .attributes = {},
                                .domain = "",
                                .name = names.node},
                               before);
  if (!adds) return product->output();
  Node* add = graph.insert({.op_type = "Add",
                            .inputs = {product->output(), addend},
                            .outputs = {output},
                            .attributes = {},
                            .domain = "",
                            .name = names.node.empty() ? "" : names.node + "_bias"},
                           before);
  return add->output();
}

Result<Value*> replace_linear(Graph& graph, const Linear& old, const LinearNumbers& numbers, Value& input) {
  const LinearNames names = names_of(old);
  const OutputSpec output{old.output->name(), old.output->type()};
  const bool gemm = old.product->is("Gemm");
  Node* last = old.output->producer();
  OF_ASSIGN(Value * made, insert_linear(graph, numbers, input, gemm, output, names, last));
  Node* product = gemm || !numbers.bias ? made->producer() : made->producer()->input(0)->producer();
  Value* weight = product->input(1);
  Value* bias = gemm ? product->input(2) : numbers.bias ? made->producer()->input(1) : nullptr;
  const std::string weight_name = old.weight->name();
  const std::string bias_name = old.bias != nullptr ? old.bias->name() : "";
  replace_and_erase(graph, *last, *made);
  // Patterns of later passes and reports find the parameters under their names, where these became free.
  if (graph.find_in_scope(weight_name) == nullptr) graph.rename(*weight, weight_name);
  if (bias != nullptr && !bias_name.empty() && graph.find_in_scope(bias_name) == nullptr) {
    graph.rename(*bias, bias_name);
  }
  return made;
}

}  // namespace onnxfold
