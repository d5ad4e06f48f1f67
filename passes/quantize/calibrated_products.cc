#include "passes/quantize/calibrated_products.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "exec/gemm.h"
#include "exec/parallel.h"
#include "ir/match.h"
#include "ir/numeric.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kHeldRows = 2048;  // at most

// What is added to the product further on (a residual stream, or another branch), not counting constants; null: nothing
// that this can be told of.
const Value* joined_value(const Node& product) {
  const Value* value = product.output();
  for (;;) {
    const Node* next = sole_consumer(value);
    if (next == nullptr) return nullptr;
    const bool skip = next->is("SkipLayerNormalization", "com.microsoft") ||
                      next->is("SkipSimplifiedLayerNormalization", "com.microsoft");
    if (next->is("Identity")) {
      value = next->output();
      continue;
    }
    if (!next->is("Add") && !skip) return nullptr;
    if (value != next->input(0) && value != next->input(1)) return nullptr;
    const Value* other = value == next->input(0) ? next->input(1) : next->input(0);
    if (constant(other) == nullptr) return other;
    value = next->output();
  }
}

// Rows of a batch that go into the moments, and those held back.
struct Split {
  std::int64_t total = 0, offset = 0;  // rows of all batches; of those before this one
  std::int64_t period = 0;             // every period-th row is held back; 0: none
  std::int64_t max_rows = 0;

  bool held(std::int64_t i) const { return period > 0 && (offset + i) % period == period - 1; }
  bool kept(std::int64_t i) const {
    if (held(i)) return false;
    if (max_rows == 0 || total <= max_rows) return true;
    return (offset + i) * max_rows / total != (offset + i + 1) * max_rows / total;
  }
};

void append(FloatRows& to, const FloatRows& more) {
  to.cols = more.cols;
  to.rows += more.rows;
  to.data.insert(to.data.end(), more.data.begin(), more.data.end());
}

bool all_zero(const FloatRows& rows) {
  return std::all_of(rows.data.begin(), rows.data.begin() + rows.rows * rows.cols, [](float x) { return x == 0; });
}

// out += X W'; an `out` without rows counts as 0.
void add_outputs(const FloatRows& inputs, const FloatRows& weight, FloatRows& out) {
  const bool joined = out.rows == inputs.rows && out.cols == weight.rows;
  out.rows = inputs.rows;
  out.cols = weight.rows;
  out.data.resize(static_cast<std::size_t>(out.rows * out.cols));
  gemm(inputs.rows, weight.rows, inputs.cols, 1.0F, inputs.data.data(), inputs.cols, false, weight.data.data(),
       weight.cols, true, joined ? 1.0F : 0.0F, out.data.data(), out.cols);
}

class Walk {
 public:
  Walk(const Model& model, const Dataset& data, const WalkOptions& options)
      : model_(model), data_(data), options_(options) {
    for (const Feeds& feeds : data.batches) masks_.push_back(row_mask(model, feeds));
  }

  Status run(const std::vector<ProductGroup>& groups, const GroupVisitor& visit) {
    OF_ASSIGN(student_, Stepper::create(model_, data_.batches));
    if (options_.teacher) {
      OF_ASSIGN(teacher_, Stepper::create(model_, data_.batches));
    }
    for (const ProductGroup& group : groups) {
      const Node* stop = group.targets.front()->node;
      OF_TRY(student_->run_until(stop));
      if (teacher_) OF_TRY(teacher_->run_until(stop));
      OF_ASSIGN(const GroupMoments moments, collect(group));
      OF_ASSIGN(const std::vector<FloatRows> weights, visit(group, moments));
      for (std::size_t i = 0; i < weights.size(); ++i) {
        if (weights[i].rows > 0) OF_TRY(replace(*group.targets[i], weights[i]));
      }
    }
    return {};
  }

 private:
  // Every product of the main graph that reads the weight the same way gets the new one.
  Status replace(const WeightTarget& target, const FloatRows& rows) {
    return student_->replace(*target.node->input(target.input), operand_of(target, rows));
  }

  static Result<FloatView> rows(const Stepper& stepper, std::size_t batch, const Value& value) {
    OF_ASSIGN(const Datum datum, stepper.value(batch, value));
    if (!datum.is_array() || datum.array.rank() == 0) return FloatView();
    return FloatView::of(datum);
  }

  Result<Split> split_of(const ProductGroup& group) {
    Split split;
    rows_.clear();
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      OF_ASSIGN(const Datum datum, student_->value(batch, *group.input));
      rows_.push_back(kept_rows(datum, masks_[batch]));
      split.total += static_cast<std::int64_t>(rows_.back().size());
    }
    split.max_rows = options_.max_rows;
    if (options_.held_out > 0) {
      const auto period = static_cast<std::int64_t>(1 / options_.held_out);
      split.period = std::max({std::int64_t{2}, period, split.total / kHeldRows});
    }
    return split;
  }

  // Rows of the batch for the moments, and those held back.
  void choose(std::size_t batch, const Split& split) {
    train_.clear();
    judge_.clear();
    for (std::size_t i = 0; i < rows_[batch].size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      if (split.held(at)) judge_.push_back(rows_[batch][i]);
      if (split.kept(at)) train_.push_back(rows_[batch][i]);
    }
  }

  // Student and teacher of what is added to the product further on; views without rows when there is none or it is not
  // there yet.
  Status find_joined(std::size_t batch, const WeightTarget& target, std::int64_t count, FloatView& ours,
                     FloatView& theirs) const {
    ours = theirs = FloatView();
    const Value* joined = teacher_ ? joined_value(*target.node) : nullptr;
    if (joined == nullptr) return {};
    OF_ASSIGN(FloatView teacher, rows(*teacher_, batch, *joined));
    OF_ASSIGN(FloatView student, rows(*student_, batch, *joined));
    if (teacher.rows() != count || student.rows() != count || student.cols() != target.shape.rows) return {};
    ours = std::move(student);
    theirs = std::move(teacher);
    return {};
  }

  Result<GroupMoments> collect(const ProductGroup& group) {
    GroupMoments moments;
    std::int64_t outputs = 0;
    for (const WeightTarget* target : group.targets) {
      ProductMoments product;
      OF_ASSIGN(product.weight, weight_rows(*target));
      outputs += product.weight.rows;
      moments.products.push_back(std::move(product));
    }
    cross_ = Matrix();
    OF_ASSIGN(Split split, split_of(group));
    // Products of differences are cheaper by way of the inputs' own moment when the outputs are many.
    const bool by_inputs = group.targets.front()->shape.cols < 2 * outputs;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      choose(batch, split);
      OF_TRY(add_batch(group, batch, by_inputs, moments));
      split.offset += static_cast<std::int64_t>(rows_[batch].size());
    }
    if (!cross_.empty()) {
      for (ProductMoments& product : moments.products) add_cross(product);
    }
    return moments;
  }

  Status add_batch(const ProductGroup& group, std::size_t batch, bool by_inputs, GroupMoments& moments) {
    OF_ASSIGN(const FloatView inputs, rows(*student_, batch, *group.input));
    if (inputs.cols() != group.targets.front()->shape.cols) return {};
    gather_rows(inputs, train_, inputs_);
    add_float_gram(moments.gram, inputs_);
    moments.rows += inputs_.rows;
    FloatRows should;
    gather_rows(inputs, judge_, should);
    append(moments.held_inputs, should);
    bool ahead = false;  // ahead_: of the teacher's inputs before the student's
    if (teacher_) {
      OF_ASSIGN(const FloatView theirs, rows(*teacher_, batch, *group.input));
      gather_rows(theirs, judge_, should);
      gather_differences(theirs, inputs, train_, 1, ahead_);
      ahead = !all_zero(ahead_);
      if (by_inputs && ahead) add_float_cross(cross_, ahead_, inputs_);
    }
    for (std::size_t i = 0; i < group.targets.size(); ++i) {
      OF_TRY(add_product(*group.targets[i], batch, inputs.rows(), should, ahead && !by_inputs, moments.products[i]));
    }
    return {};
  }

  Status add_product(const WeightTarget& target, std::size_t batch, std::int64_t count, const FloatRows& should,
                     bool ahead, ProductMoments& product) {
    FloatView ours, theirs;
    OF_TRY(find_joined(batch, target, count, ours, theirs));
    const float alpha = target.node->attr_float("alpha", 1);  // MatMul has none
    const float factor = alpha != 0 ? 1 / alpha : 0.0F;
    FloatRows joined;
    if (ours.rows() > 0) gather_differences(theirs, ours, judge_, factor, joined);
    add_outputs(should, product.weight, joined);
    append(product.held_target, joined);
    missing_.rows = 0;
    if (ours.rows() > 0) gather_differences(theirs, ours, train_, factor, missing_);
    if (ahead) add_outputs(ahead_, product.weight, missing_);
    if (missing_.rows > 0 && !all_zero(missing_)) add_float_cross(product.correction, missing_, inputs_);
    return {};
  }

  // correction += W (X_t - X_s)' X_s
  void add_cross(ProductMoments& product) const {
    const std::vector<float> cross(cross_.data.begin(), cross_.data.end());
    const std::int64_t n = cross_.cols;
    FloatRows part(product.weight.rows, n);
    gemm(product.weight.rows, n, n, 1.0F, product.weight.data.data(), n, false, cross.data(), n, false, 0.0F,
         part.data.data(), n);
    if (product.correction.empty()) product.correction = Matrix(part.rows, part.cols);
    for (std::size_t i = 0; i < part.data.size(); ++i) product.correction.data[i] += static_cast<double>(part.data[i]);
  }

  const Model& model_;
  const Dataset& data_;
  const WalkOptions& options_;
  std::vector<RowMask> masks_;
  std::unique_ptr<Stepper> student_, teacher_;
  Matrix cross_;                                 // of the group at hand: (X_t - X_s)' X_s
  std::vector<std::vector<std::int64_t>> rows_;  // of the group's input, by batch: no padding
  std::vector<std::int64_t> train_, judge_;      // of those of the batch at hand: for the moments, and held back
  FloatRows inputs_, ahead_, missing_;           // of the batch at hand, by train_; members to keep their memory
};

}  // namespace

std::vector<ProductGroup> product_groups(const std::vector<WeightTarget>& targets) {
  std::vector<ProductGroup> groups;
  std::map<const Value*, std::size_t> by_input;
  for (const WeightTarget& target : targets) {
    const Node& node = *target.node;
    if (target.use != WeightUse::kProduct || node.graph()->parent() != nullptr || target.input != 1) continue;
    if (node.attr_int("transA", 0) != 0) continue;
    if (!node.is("MatMul") && !node.is("Gemm") && !node.is("FusedMatMul", "com.microsoft")) continue;
    if (constant(node.input(0)) != nullptr) continue;
    const auto found = by_input.find(node.input(0));
    if (found != by_input.end()) {
      groups[found->second].targets.push_back(&target);
      continue;
    }
    by_input.emplace(node.input(0), groups.size());
    groups.push_back({node.input(0), {&target}});
  }
  return groups;
}

Result<FloatRows> weight_rows(const WeightTarget& target) {
  return weight_rows(*constant(target.weight), target.shape);
}

Result<FloatRows> weight_rows(const Tensor& weight, const BlockShape& shape) {
  OF_ASSIGN(std::vector<float> numbers, to_floats(weight));
  FloatRows out(shape.rows, shape.cols);
  if (shape.inner == 1) {
    out.data = std::move(numbers);
    return out;
  }
  parallel_for(out.rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t col = 0; col < out.cols; ++col) {
      for (std::int64_t row = begin; row < end; ++row) {
        out.row(row)[col] = numbers[static_cast<std::size_t>(col * out.rows + row)];
      }
    }
  });
  return out;
}

Datum operand_of(const WeightTarget& target, const FloatRows& rows) {
  const bool by_rows = target.node->attr_int("transB", 0) != 0;
  Array array(target.type, by_rows ? Dims{rows.rows, rows.cols} : Dims{rows.cols, rows.rows}, Precision::kFloat32);
  auto* to = array.mutable_data<float>();
  if (by_rows) {
    std::copy(rows.data.begin(), rows.data.end(), to);
  } else {
    parallel_for(rows.cols, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = 0; row < rows.rows; ++row) {
        for (std::int64_t col = begin; col < end; ++col) to[col * rows.rows + row] = rows.row(row)[col];
      }
    });
  }
  round_to_dtype(array);
  return Datum(std::move(array));
}

Status walk_products(const Model& model, const Dataset& data, const std::vector<ProductGroup>& groups,
                     const WalkOptions& options, const GroupVisitor& visit) {
  return Walk(model, data, options).run(groups, visit);
}

}  // namespace onnxfold
