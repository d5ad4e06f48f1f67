#include "analysis/align/heads.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/algebra/assignment.h"
#include "analysis/algebra/orthogonal.h"

namespace onnxfold {
namespace {

std::int64_t column(const Projection& projection, std::int64_t head, std::int64_t element) {
  return projection.offset + head * projection.head_stride + element * projection.element_stride;
}

bool columns_fit(const Projection& projection, std::int64_t heads, std::int64_t width) {
  return projection.linear && projection.heads == heads && projection.width == width && width > 0 &&
         projection.head_stride > 0 && column(projection, heads - 1, width - 1) < projection.linear->out;
}

// A mask of its own for every head (ALiBi, relative positions) tells heads apart.
bool masks_by_head(const Attention& attention) {
  return std::any_of(attention.masks.begin(), attention.masks.end(), [&](const Value* mask) {
    if (!mask->type().shape) return true;
    const auto& dims = *mask->type().shape;
    return dims.size() >= 3 && !(dims[dims.size() - 3].known() && *dims[dims.size() - 3].value == 1);
  });
}

// Columns of one projection in the two models, seen as blocks of heads.
struct Blocks {
  const Matrix& cross;
  const Projection& projection;

  Matrix at(std::int64_t from, std::int64_t to) const {
    const std::int64_t width = projection.width;
    Matrix block(width, width);
    if (cross.empty()) return block;
    for (std::int64_t i = 0; i < width; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        block.at(i, j) = cross.at(column(projection, from, i), column(projection, to, j));
      }
    }
    return block;
  }
};

double trace(const Matrix& map, const Matrix& cross) {
  double result = 0;
  for (std::size_t i = 0; i < map.data.size(); ++i) result += map.data[i] * cross.data[i];
  return result;
}

Matrix part_map(const Matrix& cross, HeadFreedom freedom) {
  if (freedom == HeadFreedom::kPermute) return permutation_matrix(best_assignment(cross));
  if (freedom == HeadFreedom::kSign) {
    Matrix map = identity_matrix(cross.rows);
    for (double& x : map.data) x *= trace(identity_matrix(cross.rows), cross) < 0 ? -1 : 1;
    return map;
  }
  if (freedom == HeadFreedom::kPhase) {
    const double along = cross.at(0, 0) + cross.at(1, 1), across = cross.at(0, 1) - cross.at(1, 0);
    const double size = std::hypot(along, across);
    if (size == 0) return identity_matrix(2);
    const double c = along / size, s = across / size;
    return {2, 2, {c, s, -s, c}};
  }
  return procrustes(cross);
}

double share(const Matrix& a, const Matrix& b) {
  const double size = frobenius_norm(a) + frobenius_norm(b);
  return size > 0 ? 1 / size : 0;
}

// The best maps of one key-value head with its queries onto another.
struct Pairing {
  std::vector<std::int64_t> queries;  // within the group: where each goes
  Matrix scores, values;
  double gain = 0;
};

class Finder {
 public:
  Finder(const HeadSite& site, const HeadCross& cross)
      : site_(site),
        cross_(cross),
        context_like_(context_projection()),
        score_share_(share(cross.q, cross.k)),
        value_share_(share(cross.v, cross.context)) {}

  HeadMaps run() {
    const std::int64_t groups = site_.attention.kv_heads;
    std::vector<Pairing> pairings(static_cast<std::size_t>(groups * groups));
    Matrix gains(groups, groups);
    for (std::int64_t a = 0; a < groups; ++a) {
      for (std::int64_t b = 0; b < groups; ++b) {
        if (a != b && !site_.permutable) continue;
        Pairing& pairing = pairings[static_cast<std::size_t>(a * groups + b)];
        pairing = pair(a, b);
        gains.at(a, b) = pairing.gain;
      }
    }
    std::vector<std::int64_t> goes(static_cast<std::size_t>(groups));
    for (std::int64_t a = 0; a < groups; ++a) goes[static_cast<std::size_t>(a)] = a;
    if (site_.permutable) goes = best_assignment(gains);
    for (std::int64_t a = 0; a < groups; ++a) {
      const std::int64_t b = goes[static_cast<std::size_t>(a)];
      const Pairing& pairing = pairings[static_cast<std::size_t>(a * groups + b)];
      result_.after += pairing.gain;
      result_.before += identity_gain(a);
      write(a, b, pairing);
    }
    complete();
    return std::move(result_);
  }

 private:
  // The context's columns count head by head, with the width of v.
  Projection context_projection() const {
    Projection projection;
    projection.heads = site_.attention.heads;
    projection.width = projection.head_stride = site_.attention.v.width;
    return projection;
  }

  Matrix value_cross(std::int64_t a, std::int64_t b, const std::vector<std::int64_t>& queries) const {
    Matrix result = Blocks{cross_.v, site_.attention.v}.at(a, b);
    for (std::int64_t r = 0; r < site_.repeats; ++r) {
      const std::int64_t to = b * site_.repeats + queries[static_cast<std::size_t>(r)];
      result = sum(result, Blocks{cross_.context, context_like_}.at(a * site_.repeats + r, to));
    }
    return result;
  }
  Matrix score_cross(std::int64_t a, std::int64_t b, const std::vector<std::int64_t>& queries) const {
    Matrix result = Blocks{cross_.k, site_.attention.k}.at(a, b);
    for (std::int64_t r = 0; r < site_.repeats; ++r) {
      const std::int64_t to = b * site_.repeats + queries[static_cast<std::size_t>(r)];
      result = sum(result, Blocks{cross_.q, site_.attention.q}.at(a * site_.repeats + r, to));
    }
    return result;
  }

  static double reach(const Matrix& cross, const std::vector<HeadPart>& parts) {
    return trace(best_head_map(cross, parts), cross);
  }

  std::vector<std::int64_t> query_order(std::int64_t a, std::int64_t b) const {
    std::vector<std::int64_t> order;
    for (std::int64_t r = 0; r < site_.repeats; ++r) order.push_back(r);
    if (site_.repeats == 1 || !site_.permutable) return order;
    Matrix gains(site_.repeats, site_.repeats);
    for (std::int64_t i = 0; i < site_.repeats; ++i) {
      for (std::int64_t j = 0; j < site_.repeats; ++j) {
        const std::int64_t from = a * site_.repeats + i, to = b * site_.repeats + j;
        gains.at(i, j) = score_share_ * reach(Blocks{cross_.q, site_.attention.q}.at(from, to), site_.scores) +
                         value_share_ * reach(Blocks{cross_.context, context_like_}.at(from, to), site_.values);
      }
    }
    return best_assignment(gains);
  }

  Pairing pair(std::int64_t a, std::int64_t b) const {
    Pairing pairing;
    pairing.queries = query_order(a, b);
    const Matrix scores = score_cross(a, b, pairing.queries), values = value_cross(a, b, pairing.queries);
    pairing.scores = best_head_map(scores, site_.scores);
    pairing.values = best_head_map(values, site_.values);
    pairing.gain = score_share_ * trace(pairing.scores, scores) + value_share_ * trace(pairing.values, values);
    return pairing;
  }

  double identity_gain(std::int64_t a) const {
    std::vector<std::int64_t> order;
    for (std::int64_t r = 0; r < site_.repeats; ++r) order.push_back(r);
    const Matrix scores = score_cross(a, a, order), values = value_cross(a, a, order);
    return score_share_ * trace(identity_matrix(scores.rows), scores) +
           value_share_ * trace(identity_matrix(values.rows), values);
  }

  void fill(const Value* constant, int axis, std::int64_t size, const Projection& projection, std::int64_t from,
            std::int64_t to, const Matrix& map) {
    if (constant == nullptr) return;
    Matrix& whole = result_.maps.emplace(std::pair(constant, axis), Matrix(size, size)).first->second;
    for (std::int64_t i = 0; i < map.rows; ++i) {
      for (std::int64_t j = 0; j < map.cols; ++j) {
        whole.at(column(projection, from, i), column(projection, to, j)) = map.at(i, j);
      }
    }
  }
  void fill_linear(const Projection& projection, std::int64_t from, std::int64_t to, const Matrix& map) {
    const Linear& linear = *projection.linear;
    fill(linear.weight, linear.stored_out_in ? 0 : 1, linear.out, projection, from, to, map);
    const int rank = linear.bias == nullptr ? 0 : linear.bias->rank().value_or(1);
    fill(linear.bias, std::max(rank - 1, 0), linear.out, projection, from, to, map);
  }
  void write(std::int64_t a, std::int64_t b, const Pairing& pairing) {
    fill_linear(site_.attention.k, a, b, pairing.scores);
    fill_linear(site_.attention.v, a, b, pairing.values);
    const Linear& out = *site_.attention.out;
    for (std::int64_t r = 0; r < site_.repeats; ++r) {
      const std::int64_t from = a * site_.repeats + r;
      const std::int64_t to = b * site_.repeats + pairing.queries[static_cast<std::size_t>(r)];
      fill_linear(site_.attention.q, from, to, pairing.scores);
      fill(out.weight, out.stored_out_in ? 1 : 0, out.in, context_like_, from, to, pairing.values);
    }
  }
  // Columns that belong to no head stay.
  void complete() {
    for (auto& entry : result_.maps) {
      Matrix& map = entry.second;
      for (std::int64_t i = 0; i < map.rows; ++i) {
        const auto row = map.data.begin() + i * map.cols;
        if (std::all_of(row, row + map.cols, [](double x) { return x == 0; })) map.at(i, i) = 1;
      }
    }
  }

  const HeadSite& site_;
  const HeadCross& cross_;
  Projection context_like_;
  double score_share_, value_share_;
  HeadMaps result_;
};

}  // namespace

bool self_contained(const Attention& attention) {
  const std::set<const Node*> inside(attention.nodes.begin(), attention.nodes.end());
  for (const Node* node : attention.nodes) {
    for (const Value* value : node->outputs()) {
      if (value == nullptr || value == attention.output) continue;
      const bool kept = std::all_of(value->uses().begin(), value->uses().end(), [&](const Use& use) {
        return use.node != nullptr && (inside.count(use.node) != 0 || use.node->is("Shape"));
      });
      const bool cache = value == attention.k.present || value == attention.v.present;
      if (!kept && !cache) return false;
    }
  }
  return true;
}

bool keeps_cache(const Attention& attention) {
  const auto read = [](const Value* present) { return present != nullptr && !present->uses().empty(); };
  return attention.k.past != nullptr || attention.v.past != nullptr || read(attention.k.present) ||
         read(attention.v.present);
}

Matrix best_head_map(const Matrix& cross, const std::vector<HeadPart>& parts) {
  Matrix whole = identity_matrix(cross.rows);
  for (const HeadPart& part : parts) {
    const auto size = static_cast<std::int64_t>(part.elements.size());
    Matrix own(size, size);
    const auto each = [&](const auto& visit) {
      for (std::int64_t i = 0; i < size; ++i) {
        for (std::int64_t j = 0; j < size; ++j) {
          visit(i, j, part.elements[static_cast<std::size_t>(i)], part.elements[static_cast<std::size_t>(j)]);
        }
      }
    };
    each([&](std::int64_t i, std::int64_t j, std::int64_t a, std::int64_t b) { own.at(i, j) = cross.at(a, b); });
    own = part_map(own, part.freedom);
    each([&](std::int64_t i, std::int64_t j, std::int64_t a, std::int64_t b) { whole.at(a, b) = own.at(i, j); });
  }
  snap_to_permutation(whole);
  return whole;
}

namespace {

std::vector<std::int64_t> all_elements(std::int64_t width) {
  std::vector<std::int64_t> elements;
  for (std::int64_t i = 0; i < width; ++i) elements.push_back(i);
  return elements;
}

// A norm of the elements of a head, or of all heads together.
class HeadNorm {
 public:
  // None when no map of elements but the identity passes: a mean is taken off, a bias is added, groups differ.
  static std::optional<HeadNorm> of(const Projection& projection) {
    HeadNorm norm(projection);
    if (!projection.norm) return norm;
    const Norm& own = *projection.norm;
    const bool whole = own.width == projection.width || own.width == projection.heads * projection.width;
    if (own.kind != Norm::Kind::kRms || own.bias != nullptr || own.skip != nullptr || !whole) return {};
    if (own.gain == nullptr) return norm;
    const auto gain = weight_of(*own.gain);
    if (!gain || static_cast<std::int64_t>(gain->data.size()) != own.width) return {};
    norm.gain_ = gain->data;
    return norm;
  }

  // Do these elements have one gain, in every head?
  bool alike(const std::vector<std::int64_t>& elements) const {
    for (std::size_t head = 0; head < gain_.size(); head += static_cast<std::size_t>(projection_.width)) {
      for (const std::int64_t element : elements) {
        const auto at = [&](std::int64_t index) { return gain_[head + static_cast<std::size_t>(index)]; };
        if (at(element) != at(elements.front())) return false;
      }
    }
    return true;
  }

 private:
  explicit HeadNorm(const Projection& projection) : projection_(projection) {}
  const Projection& projection_;
  std::vector<double> gain_;  // empty: none
};

}  // namespace

std::vector<HeadPart> score_parts(const Attention& attention, bool rotate, const RotaryParts* rotary) {
  const bool turned = attention.rotary || attention.q.rotary || attention.k.rotary;
  if (turned && rotary == nullptr) return {};
  const auto q = HeadNorm::of(attention.q), k = HeadNorm::of(attention.k);
  if (!q || !k) return {};
  std::vector<HeadPart> parts;
  const std::vector<std::int64_t> free = turned ? rotary->free : all_elements(attention.head_width);
  if (q->alike(free) && k->alike(free)) {
    if (!free.empty()) parts.push_back({rotate ? HeadFreedom::kRotate : HeadFreedom::kPermute, free});
  } else if (rotate) {
    for (const std::int64_t element : free) parts.push_back({HeadFreedom::kSign, {element}});
  }
  if (!turned || !rotate) return parts;
  for (const auto& pair : rotary->pairs) {
    const std::vector<std::int64_t> both = {pair.first, pair.second};
    parts.push_back({q->alike(both) && k->alike(both) ? HeadFreedom::kPhase : HeadFreedom::kSign, both});
  }
  return parts;
}

std::optional<HeadSite> head_site(const Attention& attention, bool rotate, const RotaryParts* rotary) {
  const std::int64_t heads = attention.heads, groups = attention.kv_heads;
  if (!attention.out || heads <= 0 || groups <= 0 || heads % groups != 0) return {};
  if (attention.packed_weight != nullptr || attention.packed_bias != nullptr || !self_contained(attention)) return {};
  const bool fit = columns_fit(attention.q, heads, attention.head_width) &&
                   columns_fit(attention.k, groups, attention.head_width) &&
                   columns_fit(attention.v, groups, attention.value_width);
  if (!fit || attention.out->in != heads * attention.value_width) return {};
  HeadSite site;
  site.name = attention.out->product->label();
  site.attention = attention;
  site.repeats = heads / groups;
  const bool cached = keeps_cache(attention);
  // Norms over all heads have gains of their own for each.
  const auto wide = [&](const Projection& each) { return each.norm && each.norm->width != each.width; };
  const bool normed_together = wide(attention.q) || wide(attention.k) || wide(attention.v);
  site.permutable =
      !normed_together && !cached && !masks_by_head(attention) && attention.gate == nullptr && !attention.inner_norm;
  if (!cached) site.scores = score_parts(attention, rotate, rotary);
  const bool held = cached || attention.gate != nullptr || attention.inner_norm || attention.v.norm;
  if (!held) {
    site.values.push_back({rotate ? HeadFreedom::kRotate : HeadFreedom::kPermute, all_elements(attention.value_width)});
  }
  return site;
}

HeadMaps best_heads(const HeadSite& site, const HeadCross& cross) { return Finder(site, cross).run(); }

}  // namespace onnxfold
