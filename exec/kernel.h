// The kernel table: one row per (domain, operator, first opset it serves), and what a kernel sees when it runs.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "exec/array.h"
#include "ir/graph.h"

namespace onnxfold {

// Runs a subgraph of the node: positional inputs in, positional outputs out.
using SubgraphRunner = std::function<Result<std::vector<Datum>>(const Graph& graph, std::vector<Datum> inputs)>;

// One node about to run. Inputs are shared and read-only; outputs are made here.
class KernelContext {
 public:
  static constexpr std::size_t kSpareOutputs = 8;
  KernelContext(const Node& node, std::int64_t opset, Precision precision, std::vector<Datum> inputs,
                const SubgraphRunner& run_subgraph)
      : node_(node), opset_(opset), precision_(precision), inputs_(std::move(inputs)), run_subgraph_(run_subgraph) {
    outputs_.reserve(node.outputs().size() + kSpareOutputs);
    outputs_.resize(node.outputs().size());
  }

  const Node& node() const { return node_; }
  std::int64_t opset() const { return opset_; }  // of the node's domain
  Precision precision() const { return precision_; }

  std::size_t input_count() const { return inputs_.size(); }
  bool has(std::size_t i) const { return i < inputs_.size() && inputs_[i].present(); }
  // REQUIRES: has(i) and it is an array (the executor has checked required inputs against nothing: kernels check).
  const Array& in(std::size_t i) const { return inputs_[i].array; }
  const Datum& datum(std::size_t i) const { return inputs_[i]; }
  // Fails with a message naming the node unless inputs [0, required) are present arrays.
  Status need(std::size_t required) const;

  std::size_t output_count() const { return outputs_.size(); }
  bool wants(std::size_t i) const { return i < outputs_.size() && node_.output(i) != nullptr; }
  // Allocates output i. The reference stays valid for the kernel's run. An output the node does not have may be made as
  // well (up to kSpareOutputs past the end): it is dropped.
  Array& out(std::size_t i, DType dtype, Dims dims);
  // Like out(), but in the memory of input `in` when nobody else reads it and type and size allow: element k of the
  // output may then only be written after element k of that input was read, and no other element of it is read later.
  Array& out_over(std::size_t i, std::size_t in, DType dtype, Dims dims);
  void set(std::size_t i, Datum value);
  std::vector<Datum> take_outputs() {
    inputs_.clear();
    return std::move(outputs_);
  }

  Result<std::vector<Datum>> run(const Graph& graph, std::vector<Datum> inputs) const {
    return run_subgraph_(graph, std::move(inputs));
  }
  Array make(DType dtype, Dims dims) const { return Array(dtype, std::move(dims), precision_); }

  // Attributes with defaults, straight from the node.
  std::int64_t attr(std::string_view name, std::int64_t fallback) const { return node_.attr_int(name, fallback); }
  float attr(std::string_view name, float fallback) const { return node_.attr_float(name, fallback); }
  std::string attr(std::string_view name, const char* fallback) const { return node_.attr_string(name, fallback); }

  // `return ctx.unsupported("...")` / `ctx.invalid("...")`: errors that name the node.
  tl::unexpected<Error> unsupported(std::string message) const;
  tl::unexpected<Error> invalid(std::string message) const;  // wrong shapes, types, values at run time

 private:
  const Node& node_;
  std::int64_t opset_;
  Precision precision_;
  std::vector<Datum> inputs_;
  std::vector<Datum> outputs_;
  const SubgraphRunner& run_subgraph_;
};

using KernelFn = Status (*)(KernelContext&);

struct KernelRow {
  std::string_view op_type;
  std::int64_t since;  // first opset of the domain this function serves, until the next row of the same operator
  KernelFn run;
  std::string_view domain = "";
};

// The row for an operator at an opset; null when there is none.
const KernelRow* find_kernel(std::string_view domain, std::string_view op_type, std::int64_t opset);
std::vector<const KernelRow*> all_kernels();

// Each file of exec/kernels/ offers its rows; exec/kernel_table.cc lists these functions and nothing else does.
using KernelRows = std::span<const KernelRow>;

}  // namespace onnxfold
