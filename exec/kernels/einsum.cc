// Einsum: operands are contracted from left to right, each contraction one batch of matrix products.
#include <fmt/format.h>

#include <map>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/products.h"

namespace onnxfold {
namespace {

using Labels = std::vector<int>;  // letters as themselves; axes of the ellipsis as kEllipsis + position from the right
constexpr int kEllipsis = 1 << 16;

// A dense row-major operand whose axes carry labels; a label occurs once.
struct Operand {
  Labels labels;
  Dims dims;
  Array data;
};

struct Equation {
  std::vector<std::string> inputs;
  std::string output;
  bool has_output = false;
};

Equation split(const std::string& text) {
  Equation equation;
  std::string compact;
  for (const char c : text) {
    if (c != ' ') compact += c;
  }
  const std::size_t arrow = compact.find("->");
  equation.has_output = arrow != std::string::npos;
  if (equation.has_output) equation.output = compact.substr(arrow + 2);
  std::string terms = compact.substr(0, arrow);
  for (std::size_t comma; (comma = terms.find(',')) != std::string::npos; terms.erase(0, comma + 1)) {
    equation.inputs.push_back(terms.substr(0, comma));
  }
  equation.inputs.push_back(terms);
  return equation;
}

// Labels of a term for an operand of `rank` axes; the ellipsis takes what the letters leave. rank < 0: `ellipsis` axes.
Result<Labels> read_term(const KernelContext& ctx, const std::string& term, int rank, int ellipsis) {
  int letters = 0;
  const std::size_t dots = term.find("...");
  for (std::size_t i = 0; i < term.size(); ++i) {
    if (i >= dots && i < dots + 3 && dots != std::string::npos) continue;
    if (std::isalpha(static_cast<unsigned char>(term[i])) == 0) {
      return ctx.invalid(fmt::format("equation has \"{}\" in term \"{}\"", term[i], term));
    }
    ++letters;
  }
  const int spread = dots == std::string::npos ? 0 : rank < 0 ? ellipsis : rank - letters;
  if (spread < 0 || (rank >= 0 && letters + spread != rank)) {
    return ctx.invalid(fmt::format("term \"{}\" does not fit an operand of rank {}", term, rank));
  }
  Labels labels;
  for (std::size_t i = 0; i < term.size(); ++i) {
    if (i == dots) {
      for (int e = spread; e-- > 0;) labels.push_back(kEllipsis + e);
      i += 2;
    } else {
      labels.push_back(term[i]);
    }
  }
  return labels;
}

// Copies a strided view (stride 0: broadcast) into a dense array of `dims`.
template <typename T>
void copy_strided(const T* from, const Dims& dims, const Dims& strides, T* to) {
  const std::int64_t inner = dims.empty() ? 1 : dims.back(), total = element_count(dims);
  if (total == 0) return;
  const std::int64_t step = dims.empty() ? 1 : strides.back();
  parallel_for(total / inner, std::max<std::int64_t>(1, kElementGrain / inner),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t row = begin; row < end; ++row) {
                   std::int64_t rest = row, offset = 0;
                   for (std::size_t axis = dims.empty() ? 0 : dims.size() - 1; axis-- > 0;) {
                     offset += rest % dims[axis] * strides[axis];
                     rest /= dims[axis];
                   }
                   for (std::int64_t i = 0; i < inner; ++i) to[row * inner + i] = from[offset + i * step];
                 }
               });
}

class Contraction {
 public:
  Contraction(KernelContext& ctx, DType dtype) : ctx_(ctx), dtype_(dtype) {}

  std::map<int, std::int64_t>& sizes() { return sizes_; }

  // The operand with axes in the order of `labels`, all at full size (axes of size 1 spread, repeated labels on the
  // diagonal). REQUIRES: labels cover what the operand has, each once; new ones broadcast.
  template <typename T>
  Operand arrange(const Operand& from, const Labels& labels) const {
    const Dims own = row_major_strides(from.dims);
    Operand to{labels, {}, {}};
    Dims strides;
    bool same = from.labels == labels;
    for (const int label : labels) {
      std::int64_t stride = 0;
      for (std::size_t i = 0; i < from.labels.size(); ++i) {
        if (from.labels[i] == label && from.dims[i] != 1) stride += own[i];
      }
      to.dims.push_back(sizes_.at(label));
      strides.push_back(stride);
    }
    same = same && to.dims == from.dims;
    if (same) return from;
    to.data = ctx_.make(dtype_, to.dims);
    copy_strided(from.data.data<T>(), to.dims, strides, to.data.mutable_data<T>());
    return to;
  }

  // Sums away the axes whose labels are not in `keep`.
  template <typename T>
  Operand reduce(const Operand& from, const Labels& keep) const {
    Labels kept, dropped;
    for (const int label : from.labels) {
      if (contains(kept, label) || contains(dropped, label)) continue;
      (contains(keep, label) ? kept : dropped).push_back(label);
    }
    Labels all = kept;
    all.insert(all.end(), dropped.begin(), dropped.end());
    const Operand arranged = arrange<T>(from, all);
    if (dropped.empty()) return arranged;
    Operand to{kept, Dims(arranged.dims.begin(), arranged.dims.begin() + static_cast<std::ptrdiff_t>(kept.size())), {}};
    to.data = ctx_.make(dtype_, to.dims);
    const std::int64_t count = to.data.size(), inner = volume(dropped);
    for (std::int64_t i = 0; i < count; ++i) {
      using Sum = std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;
      Sum sum = 0;
      for (std::int64_t j = 0; j < inner; ++j) sum += static_cast<Sum>(arranged.data.data<T>()[i * inner + j]);
      to.data.mutable_data<T>()[i] = static_cast<T>(sum);
    }
    return to;
  }

  // Product of two operands, summed over shared labels that are not in `keep`.
  template <typename T>
  Operand contract(const Operand& a, const Operand& b, const Labels& keep) const {
    Labels batch, left, right, sum;
    for (const int label : a.labels) {
      (!contains(b.labels, label) ? left : contains(keep, label) ? batch : sum).push_back(label);
    }
    for (const int label : b.labels) {
      if (!contains(a.labels, label)) right.push_back(label);
    }
    const Operand x = arrange<T>(a, joined(batch, left, sum)), y = arrange<T>(b, joined(batch, sum, right));
    Operand out{joined(batch, left, right), {}, {}};
    for (const int label : out.labels) out.dims.push_back(sizes_.at(label));
    out.data = ctx_.make(dtype_, out.dims);
    const std::int64_t m = volume(left), n = volume(right), k = volume(sum), count = volume(batch);
    std::vector<GemmItem<T>> items;
    for (std::int64_t i = 0; i < count; ++i) {
      items.push_back(
          {x.data.data<T>() + i * m * k, y.data.data<T>() + i * k * n, out.data.mutable_data<T>() + i * m * n});
    }
    multiply_all<T>(items, {m, n, k, k, n});
    return out;
  }

  static bool contains(const Labels& labels, int label) {
    return std::find(labels.begin(), labels.end(), label) != labels.end();
  }

 private:
  static Labels joined(Labels a, const Labels& b, const Labels& c) {
    a.insert(a.end(), b.begin(), b.end());
    a.insert(a.end(), c.begin(), c.end());
    return a;
  }
  std::int64_t volume(const Labels& labels) const {
    std::int64_t product = 1;
    for (const int label : labels) product *= sizes_.at(label);
    return product;
  }

  KernelContext& ctx_;
  DType dtype_;
  std::map<int, std::int64_t> sizes_;
};

// Without "->": the ellipsis, then the letters that occur once, in alphabetical order.
Labels implicit_output(const std::vector<Operand>& operands, int ellipsis) {
  std::map<int, int> uses;
  for (const Operand& operand : operands) {
    for (const int label : operand.labels) ++uses[label];
  }
  Labels labels;
  for (int e = ellipsis; e-- > 0;) labels.push_back(kEllipsis + e);
  for (const auto& [label, count] : uses) {
    if (label < kEllipsis && count == 1) labels.push_back(label);
  }
  return labels;
}

// Labels that the output or an operand from `next` on still needs.
Labels needed_later(const std::vector<Operand>& operands, std::size_t next, const Labels& output) {
  Labels labels = output;
  for (std::size_t i = next; i < operands.size(); ++i) {
    labels.insert(labels.end(), operands[i].labels.begin(), operands[i].labels.end());
  }
  return labels;
}

template <typename T>
Array run(Contraction& contraction, std::vector<Operand> operands, const Labels& output) {
  Operand result = contraction.reduce<T>(operands[0], needed_later(operands, 1, output));
  for (std::size_t i = 1; i < operands.size(); ++i) {
    const Labels later = needed_later(operands, i + 1, output);
    Labels keep = later;
    keep.insert(keep.end(), result.labels.begin(), result.labels.end());
    const Operand right = contraction.reduce<T>(operands[i], keep);
    result = contraction.contract<T>(result, right, later);
    result = contraction.reduce<T>(result, later);
  }
  return contraction.arrange<T>(result, output).data;
}

Result<std::vector<Operand>> read_operands(const KernelContext& ctx, const Equation& equation,
                                           std::map<int, std::int64_t>& sizes) {
  std::vector<Operand> operands;
  for (std::size_t i = 0; i < equation.inputs.size(); ++i) {
    const Array& array = ctx.in(i);
    if (array.storage() != ctx.in(0).storage()) return ctx.invalid("operands differ in type");
    OF_ASSIGN(Labels labels, read_term(ctx, equation.inputs[i], array.rank(), 0));
    for (std::size_t axis = 0; axis < labels.size(); ++axis) {
      const std::int64_t dim = array.dims()[axis];
      std::int64_t& size = sizes.try_emplace(labels[axis], dim).first->second;
      if (size == 1) size = dim;
      if (dim != size && dim != 1)
        return ctx.invalid(fmt::format("operand {} has dimension {}, others {}", i, dim, size));
    }
    operands.push_back({std::move(labels), array.dims(), array});
  }
  return operands;
}

Status einsum(KernelContext& ctx) {
  const Equation equation = split(ctx.attr("equation", ""));
  if (equation.inputs.size() != ctx.input_count()) return ctx.invalid("equation and inputs differ in number");
  OF_TRY(ctx.need(ctx.input_count()));
  Contraction contraction(ctx, ctx.in(0).dtype());
  OF_ASSIGN(std::vector<Operand> operands, read_operands(ctx, equation, contraction.sizes()));
  int ellipsis = 0;
  for (const auto& [label, size] : contraction.sizes()) {
    if (label >= kEllipsis) ellipsis = std::max(ellipsis, label - kEllipsis + 1);
  }
  Labels output = implicit_output(operands, ellipsis);
  if (equation.has_output) {
    OF_ASSIGN(output, read_term(ctx, equation.output, -1, ellipsis));
  }
  for (std::size_t i = 0; i < output.size(); ++i) {
    if (!contraction.sizes().contains(output[i])) return ctx.invalid("the output has a label no operand has");
    if (std::count(output.begin(), output.end(), output[i]) != 1) return ctx.invalid("the output repeats a label");
  }
  Array out;
  const bool done = visit_numeric(ctx.in(0).storage(),
                                  [&]<typename T>(Tag<T>) { out = run<T>(contraction, std::move(operands), output); });
  if (!done) return ctx.unsupported("element type is not a number");
  ctx.set(0, std::move(out));
  return {};
}

constexpr KernelRow kRows[] = {{"Einsum", 12, einsum}};

}  // namespace

KernelRows einsum_kernels() { return kRows; }

}  // namespace onnxfold
