#include "tests/passes/merge/small_transformer.h"

#include <cmath>
#include <random>

#include "analysis/algebra/assignment.h"
#include "analysis/algebra/orthogonal.h"
#include "analysis/structure/correspondence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test {

namespace {

constexpr std::int64_t kWidth = 12, kHeads = 3, kHead = 4, kHidden = 20;

}  // namespace

namespace {

std::unique_ptr<Model> of_width(std::int64_t factor) {
  const std::string d = std::to_string(kWidth * factor), f = std::to_string(kHidden * factor);
  const std::string ones =
      factor == 1 ? "{1,1,1,1,1,1,1,1,1,1,1,1}" : "{1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}";
  std::string weights = "float[7, " + d + "] embed = {}, float[1, 5, " + d + "] pos = {}, float[" + d +
                        ", 3] head = {}, int64[4] split = {0, 5, 3, " + std::to_string(kHead * factor) +
                        "}, int64[3] join = {0, 5, " + d + "}, float scale = {0.5}, float[" + d + "] ones = " + ones;
  std::string nodes = "e = Gather(embed, x) s0 = Add(e, pos) ";
  for (const std::string i : {"0", "1"}) {
    for (const std::string w : {"q", "k", "v", "o"}) {
      weights += ", float[" + d + ", " + d + "] w" + w + i + " = {}, float[" + d + "] b" + w + i + " = {}";
    }
    weights += ", float[" + d + ", " + f + "] up" + i + " = {}, float[" + f + "] bu" + i + " = {}, float[" + f + ", " +
               d + "] down" + i + " = {}";
    const std::string s = "s" + i, t = i == "0" ? "s1" : "s2";
    nodes += "n" + i + " = LayerNormalization(" + s + ", ones) ";
    for (const std::string p : {"q", "k", "v"}) {
      const std::string perm = p == "k" ? "[0, 2, 3, 1]" : "[0, 2, 1, 3]";
      nodes += p + "m" + i + " = MatMul(n" + i + ", w" + p + i + ") " + p + "a" + i + " = Add(" + p + "m" + i + ", b" +
               p + i + ") " + p + "r" + i + " = Reshape(" + p + "a" + i + ", split) " + p + i +
               " = Transpose <perm = " + perm + "> (" + p + "r" + i + ") ";
    }
    nodes += "c" + i + " = MatMul(q" + i + ", k" + i + ") d" + i + " = Mul(c" + i + ", scale) p" + i +
             " = Softmax <axis = -1> (d" + i + ") z" + i + " = MatMul(p" + i + ", v" + i + ") y" + i +
             " = Transpose <perm = [0, 2, 1, 3]> (z" + i + ") j" + i + " = Reshape(y" + i + ", join) om" + i +
             " = MatMul(j" + i + ", wo" + i + ") oa" + i + " = Add(om" + i + ", bo" + i + ") h" + i + " = Add(" + s +
             ", oa" + i + ") ";
    nodes += "g" + i + " = LayerNormalization(h" + i + ", ones) um" + i + " = MatMul(g" + i + ", up" + i + ") ua" + i +
             " = Add(um" + i + ", bu" + i + ") ug" + i + " = Gelu(ua" + i + ") dn" + i + " = MatMul(ug" + i + ", down" +
             i + ") " + t + " = Add(h" + i + ", dn" + i + ") ";
  }
  nodes += "f = LayerNormalization(s2, ones) out = MatMul(f, head) ";
  return model_from_text("<ir_version: 8, opset_import: [\"\" : 20]> g (int64[B, 5] x) => (float[B, 5, 3] out) <" +
                         weights + "> { " + nodes + " }");
}

}  // namespace

std::unique_ptr<Model> transformer() { return of_width(1); }

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Matrix result(rows, cols);
  for (double& x : result.data) x = normal(generator);
  return result;
}

void set_weight(Model& model, const std::string& name, const Matrix& values) {
  Value* value = model.graph().find(name);
  const Tensor old = *parameter(value);
  replace_constant(*value, *from_doubles(old.dtype(), old.dims(), values.data));
}

namespace {

Matrix weight(const Model& model, const std::string& name, std::int64_t rows, std::int64_t cols) {
  return Matrix(rows, cols, *to_doubles(*parameter(model.graph().find(name))));
}

}  // namespace

std::unique_ptr<Model> disguised(const Model& model, bool rotate) {
  auto copy = model.clone();
  Matrix stream = permutation_matrix({5, 0, 7, 1, 11, 3, 2, 10, 4, 9, 6, 8});
  if (rotate) stream = centred_procrustes(random_matrix(kWidth, kWidth, 1));
  const auto columns = [&](const std::string& name, std::int64_t rows, const Matrix& map) {
    set_weight(*copy, name, product(weight(*copy, name, rows, map.rows), map));
  };
  const auto rows = [&](const std::string& name, const Matrix& map, std::int64_t cols) {
    set_weight(*copy, name, product(map, weight(*copy, name, map.rows, cols), true));
  };
  columns("embed", 7, stream);
  columns("pos", 5, stream);
  rows("head", stream, 3);
  for (const std::string i : {"0", "1"}) {
    std::vector<std::int64_t> order(kHidden);
    for (std::int64_t u = 0; u < kHidden; ++u) order[static_cast<std::size_t>(u)] = (u * 7 + 3) % kHidden;
    const Matrix units = permutation_matrix(order);
    Matrix scores(kWidth, kWidth), values(kWidth, kWidth);
    for (std::int64_t h = 0; h < kHeads; ++h) {
      const std::int64_t to = (h + 1) % kHeads;
      Matrix r = permutation_matrix({2, 0, 3, 1}), s = permutation_matrix({1, 3, 2, 0});
      if (rotate) r = procrustes(random_matrix(kHead, kHead, 10 + static_cast<std::uint32_t>(h)));
      if (rotate) s = procrustes(random_matrix(kHead, kHead, 20 + static_cast<std::uint32_t>(h)));
      for (std::int64_t a = 0; a < kHead; ++a) {
        for (std::int64_t b = 0; b < kHead; ++b) {
          scores.at(h * kHead + a, to * kHead + b) = r.at(a, b);
          values.at(h * kHead + a, to * kHead + b) = s.at(a, b);
        }
      }
    }
    for (const std::string w : {"q", "k", "v"}) {
      const Matrix& map = w == "v" ? values : scores;
      rows("w" + w + i, stream, kWidth);
      columns("w" + w + i, kWidth, map);
      columns("b" + w + i, 1, map);
    }
    rows("wo" + i, values, kWidth);
    columns("wo" + i, kWidth, stream);
    columns("bo" + i, 1, stream);
    rows("up" + i, stream, kHidden);
    columns("up" + i, kWidth, units);
    columns("bu" + i, 1, units);
    rows("down" + i, units, kWidth);
    columns("down" + i, kHidden, stream);
  }
  return copy;
}

double largest_difference(const Model& a, const Model& b) {
  double largest = 0;
  for (const Value* value : b.graph().initializers()) {
    const Value* other = a.graph().find(value->name());
    if (other == nullptr || !is_float(value->dtype())) continue;
    const auto x = to_doubles(*parameter(other)), y = to_doubles(*parameter(value));
    for (std::size_t i = 0; i < y->size(); ++i) largest = std::max(largest, std::abs((*x)[i] - (*y)[i]));
  }
  return largest;
}

namespace {

// Row or column i stands at 2 i and 2 i + 1.
Matrix twice(const Matrix& matrix, bool rows, bool cols) {
  const std::int64_t high = rows ? 2 : 1, wide = cols ? 2 : 1;
  Matrix result(matrix.rows * high, matrix.cols * wide);
  for (std::int64_t i = 0; i < result.rows; ++i) {
    for (std::int64_t j = 0; j < result.cols; ++j) {
      result.at(i, j) = matrix.at(i / high, j / wide) / static_cast<double>(high);
    }
  }
  return result;
}

void set_matrix(Model& model, const std::string& name, const Matrix& values, Dims dims) {
  Value* value = model.graph().find(name);
  replace_constant(*value, *from_doubles(DType::kFloat32, std::move(dims), values.data));
}

}  // namespace

std::unique_ptr<Model> widened(const Model& model) {
  auto copy = of_width(2);
  const auto set = [&](const std::string& name, std::int64_t rows, std::int64_t cols, bool both, double factor) {
    Matrix values = twice(weight(model, name, rows, cols), both, true);
    for (double& x : values.data) x *= factor;
    set_matrix(*copy, name, values, {values.rows, values.cols});
  };
  const auto set_vector = [&](const std::string& name, std::int64_t size, double factor) {
    Matrix values = twice(weight(model, name, 1, size), false, true);
    for (double& x : values.data) x *= factor;
    set_matrix(*copy, name, values, {values.cols});
  };
  // Scores of heads twice as wide are scaled by 1 / sqrt(width).
  const double narrower = std::pow(0.5, 0.25);
  set("embed", 7, kWidth, false, 1);
  set_matrix(*copy, "pos", twice(weight(model, "pos", 5, kWidth), false, true), {1, 5, 2 * kWidth});
  set_matrix(*copy, "head", twice(weight(model, "head", kWidth, 3), true, false), {2 * kWidth, 3});
  set_matrix(*copy, "scale", Matrix(1, 1, {1 / std::sqrt(2.0 * kHead)}), {});
  for (const std::string i : {"0", "1"}) {
    for (const std::string w : {"q", "k", "v", "o"}) {
      const double factor = w == "q" || w == "k" ? narrower : 1;
      set("w" + w + i, kWidth, kWidth, true, factor);
      set_vector("b" + w + i, kWidth, factor);
    }
    set("up" + i, kWidth, kHidden, true, 1);
    set_vector("bu" + i, kHidden, 1);
    set("down" + i, kHidden, kWidth, true, 1);
  }
  return copy;
}

}  // namespace onnxfold::test
