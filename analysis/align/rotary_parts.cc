#include "analysis/align/rotary_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "analysis/algebra/matrix.h"
#include "analysis/calibrate/part.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/rotary.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

// Rows of a value that are looked at, from its end: positions of a few heads.
constexpr std::int64_t kRows = 256;

// Halves or neighbours of the first `rotated` elements.
RotaryParts regular_parts(std::int64_t width, std::int64_t rotated, bool neighbours) {
  RotaryParts parts;
  const std::int64_t half = rotated / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    parts.pairs.emplace_back(neighbours ? 2 * i : i, neighbours ? 2 * i + 1 : i + half);
  }
  for (std::int64_t i = 2 * half; i < width; ++i) parts.free.push_back(i);
  return parts;
}

bool fits(const RotaryParts& parts, std::int64_t width) {
  return std::all_of(parts.pairs.begin(), parts.pairs.end(),
                     [&](const auto& pair) { return pair.first < width && pair.second < width; });
}

// What one operator says by itself.
std::optional<RotaryParts> of_operator(const Node& node, std::int64_t width) {
  if (node.is("GroupQueryAttention", "com.microsoft")) {
    const Value* table = node.input(7);
    const auto dims = table == nullptr ? std::nullopt : table->type().static_dims();
    const std::int64_t rotated = dims && dims->size() == 2 ? 2 * dims->back() : width;
    return regular_parts(width, rotated, node.attr_int("rotary_interleaved", 0) != 0);
  }
  const std::int64_t given = node.attr_int("rotary_embedding_dim", 0);
  return regular_parts(width, given > 0 ? given : width, node.attr_int("interleaved", 0) != 0);
}

// The nodes with all that says what they do, but for their names.
std::string spelled(const Rotary& rotary) {
  std::string text;
  std::map<const Value*, std::size_t> numbers = {{rotary.source, 0}};
  for (const Node* node : rotary.nodes) {
    text += node->op_type() + "(";
    for (const Value* input : node->inputs()) {
      const auto known = numbers.find(input);
      const auto ints = input == nullptr ? std::nullopt : int_constants(input);
      if (known != numbers.end()) {
        text += fmt::format("#{},", known->second);
      } else if (ints) {
        text += fmt::format("[{}],", fmt::join(*ints, " "));
      } else {
        text += input == nullptr ? "-," : input->name() + ",";
      }
    }
    for (const char* name : {"axis", "start", "end", "interleaved", "rotary_embedding_dim", "num_heads"})
      text += fmt::format("{} ", node->attr_int(name, -99));
    for (const char* name : {"perm", "split", "axes", "starts", "ends"}) {
      if (const auto ints = node->attr_ints(name)) text += fmt::format("[{}]", fmt::join(*ints, " "));
    }
    text += ") ";
    for (const Value* output : node->outputs()) numbers.emplace(output, numbers.size());
  }
  return text;
}

// y = L x for the elements of a head, one L a row.
using Maps = std::vector<Matrix>;

class ChainRun {
 public:
  static Result<ChainRun> prepare(const Model& model, const Rotary& rotary, const Value& end) {
    ChainRun run;
    run.source_ = rotary.source->name();
    run.end_ = end.name();
    for (const Value* table : rotary.tables) run.tables_.push_back(table->name());
    OF_ASSIGN(run.data_, generate_dataset(model, 1));
    if (run.data_.batches.empty()) return fail(Code::kUnsupported, "no data");
    run.data_.batches.resize(1);
    run.data_.batch_sizes.resize(1);
    std::vector<std::string> values = run.tables_;
    values.push_back(run.source_);
    OF_ASSIGN(const auto front, model_part(model, {}, values));
    OF_ASSIGN(Recording recorded, record(*front, run.data_, values));
    run.recorded_ = std::move(recorded.batches.front());
    OF_ASSIGN(run.part_, model_part(model, {run.source_}, {run.end_}));
    return run;
  }

  // With the model's own tables.
  Result<Maps> own() const { return maps(*part_, {}); }
  Result<Maps> random() const {
    std::mt19937_64 engine(7);
    std::unique_ptr<Model> part = part_->clone();
    std::vector<std::string> cuts = {source_};
    Feeds feeds;
    for (const std::string& name : tables_) {
      const Array& old = recorded_.at(name).array;
      Array values(old.dtype(), old.dims(), Precision::kFloat64);
      if (values.storage() != Storage::kDouble) return fail(Code::kUnsupported, "a table is no float");
      std::uniform_real_distribution<double> uniform(0.5, 1.5);
      for (std::int64_t i = 0; i < values.size(); ++i) values.mutable_data<double>()[i] = uniform(engine);
      Value* table = part->graph().find(name);
      if (table == nullptr) continue;
      if (parameter(table) != nullptr && table->producer() == nullptr) {
        OF_ASSIGN(Tensor tensor, to_tensor(values));
        if (replace_constant(*table, std::move(tensor)) == nullptr) return fail(Code::kUnsupported, "a table stays");
      } else {
        cuts.push_back(name);
        feeds[name] = std::move(values);
      }
    }
    OF_ASSIGN(const auto cut, model_part(*part, cuts, {end_}));
    return maps(*cut, feeds);
  }

 private:
  Result<Maps> maps(const Model& part, const Feeds& tables) const {
    const Array& like = recorded_.at(source_).array;
    if (like.rank() < 2) return fail(Code::kUnsupported, "no heads");
    const std::int64_t width = like.dim(-1), rows = like.size() / std::max<std::int64_t>(width, 1);
    const std::int64_t first = std::max<std::int64_t>(rows - kRows, 0);
    ExecutorOptions options;
    options.precision = Precision::kFloat64;
    OF_ASSIGN(const auto executor, Executor::create(part, options));
    Maps result(static_cast<std::size_t>(rows - first), Matrix(width, width));
    for (std::int64_t element = 0; element < width; ++element) {
      Feeds feeds = tables;
      for (const Value* input : part.graph().inputs()) {
        const auto found = data_.batches.front().find(input->name());
        if (found != data_.batches.front().end() && feeds.count(input->name()) == 0) feeds.insert(*found);
      }
      Array unit(like.dtype(), like.dims(), Precision::kFloat64);
      if (unit.storage() != Storage::kDouble) return fail(Code::kUnsupported, "no floats");
      std::fill_n(unit.mutable_data<double>(), unit.size(), 0.0);
      for (std::int64_t row = 0; row < rows; ++row) unit.mutable_data<double>()[row * width + element] = 1;
      feeds[source_] = std::move(unit);
      OF_ASSIGN(const RunResult run, executor->run(feeds));
      if (run.outputs.size() != 1 || !run.outputs[0].is_array() || run.outputs[0].array.dims() != like.dims()) {
        return fail(Code::kUnsupported, "another shape");
      }
      OF_ASSIGN(const std::vector<double> out, to_doubles(run.outputs[0].array));
      for (std::int64_t row = first; row < rows; ++row) {
        for (std::int64_t i = 0; i < width; ++i) {
          result[static_cast<std::size_t>(row - first)].at(i, element) = out[static_cast<std::size_t>(row * width + i)];
        }
      }
    }
    return result;
  }

  std::string source_, end_;
  std::vector<std::string> tables_;
  Dataset data_;
  Taps recorded_;
  std::unique_ptr<Model> part_;
};

// Which elements meet in an output, and which come out as they went in.
struct Meetings {
  std::vector<std::set<std::int64_t>> with;
  std::vector<char> passes;
};

void add_meetings(const Maps& maps, Meetings& meetings) {
  for (const Matrix& map : maps) {
    std::vector<std::int64_t> outputs(static_cast<std::size_t>(map.cols), 0);
    for (std::int64_t i = 0; i < map.rows; ++i) {
      for (std::int64_t a = 0; a < map.cols; ++a) {
        if (map.at(i, a) == 0) continue;
        ++outputs[static_cast<std::size_t>(a)];
        if (map.at(i, a) != 1) meetings.passes[static_cast<std::size_t>(a)] = 0;
        for (std::int64_t b = 0; b < map.cols; ++b) {
          if (b != a && map.at(i, b) != 0) meetings.with[static_cast<std::size_t>(a)].insert(b);
        }
      }
    }
    for (std::size_t a = 0; a < outputs.size(); ++a) {
      if (outputs[a] != 1 || !meetings.with[a].empty()) meetings.passes[a] = 0;
    }
  }
}

// A column of a map with its few entries.
double inner(const Matrix& q, std::int64_t a, const Matrix& k, std::int64_t b) {
  double result = 0;
  for (std::int64_t i = 0; i < q.rows; ++i) result += q.at(i, a) * k.at(i, b);
  return result;
}

// Is q' k of two elements a rotation (and factor) at all of these positions, and is it one that turns at all?
bool rotates(const Maps& q, const Maps& k, std::int64_t a, std::int64_t b) {
  bool turns = false;
  for (const Matrix* one : {&q.front(), &q[q.size() / 2], &q.back()}) {
    for (const Matrix& two : k) {
      const double aa = inner(*one, a, two, a), bb = inner(*one, b, two, b);
      const double ab = inner(*one, a, two, b), ba = inner(*one, b, two, a);
      const double size = std::max({std::abs(aa), std::abs(bb), std::abs(ab), std::abs(ba)});
      if (std::abs(aa - bb) > 1e-6 * size || std::abs(ab + ba) > 1e-6 * size) return false;
      turns = turns || std::abs(ab - ba) > 0;
    }
  }
  return turns;
}

std::optional<RotaryParts> parts_of(const Maps& random_q, const Maps& random_k, const Maps& q, const Maps& k) {
  const std::int64_t width = random_q.front().cols;
  Meetings meetings{std::vector<std::set<std::int64_t>>(static_cast<std::size_t>(width)),
                    std::vector<char>(static_cast<std::size_t>(width), 1)};
  add_meetings(random_q, meetings);
  add_meetings(random_k, meetings);
  RotaryParts parts;
  for (std::int64_t a = 0; a < width; ++a) {
    const auto at = static_cast<std::size_t>(a);
    const bool same = inner(random_q.back(), a, random_k.back(), a) == 1;
    if (meetings.passes[at] != 0 && same) parts.free.push_back(a);
    if (meetings.with[at].size() != 1) continue;
    const std::int64_t b = *meetings.with[at].begin();
    const auto& back = meetings.with[static_cast<std::size_t>(b)];
    if (a < b && back.size() == 1 && *back.begin() == a && rotates(q, k, a, b)) parts.pairs.emplace_back(a, b);
  }
  return parts;
}

}  // namespace

struct RotaryProbe::Chain {
  Rotary rotary;
  Value* end = nullptr;
  Node* fused = nullptr;  // one operator
};

std::optional<RotaryParts> RotaryProbe::of(const Attention& attention) {
  const std::int64_t width = attention.head_width;
  Chain chains[2];
  const Projection* projections[] = {&attention.q, &attention.k};
  for (std::size_t i = 0; i < 2; ++i) {
    const Projection& projection = *projections[i];
    if (!projection.rotary || projection.width != width || projection.element_stride != 1) return {};
    Chain& chain = chains[i];
    for (auto node = projection.nodes.rbegin(); node != projection.nodes.rend() && chain.end == nullptr; ++node) {
      auto rotary = rotary_making((*node)->output());
      if (!rotary) continue;
      chain.end = (*node)->output();
      if (rotary->fused) chain.fused = *node;
      chain.rotary = std::move(*rotary);
    }
    if (chain.end == nullptr) chain.fused = attention.fused;
    if (chain.end == nullptr && (chain.fused == nullptr || chain.fused->attr_int("do_rotary", 0) == 0)) return {};
  }
  if (chains[0].fused != nullptr && chains[1].fused != nullptr) {
    const auto q = of_operator(*chains[0].fused, width), k = of_operator(*chains[1].fused, width);
    return q && k && q->pairs == k->pairs && fits(*q, width) ? q : std::nullopt;
  }
  if (chains[0].fused != nullptr || chains[1].fused != nullptr) return {};
  const std::string key = spelled(chains[0].rotary) + "| " + spelled(chains[1].rotary);
  const auto found = known_.find(key);
  if (found != known_.end()) return found->second;
  return known_[key] = probed(chains[0], chains[1], width);
}

std::optional<RotaryParts> RotaryProbe::probed(const Chain& q, const Chain& k, std::int64_t width) {
  std::vector<Maps> random, own;
  for (const Chain* chain : {&q, &k}) {
    const auto run = ChainRun::prepare(model_, chain->rotary, *chain->end);
    if (!run) return {};
    for (const bool its_own : {false, true}) {
      auto made = its_own ? run->own() : run->random();
      if (!made || made->empty() || made->front().cols != width) return {};
      (its_own ? own : random).push_back(std::move(*made));
    }
  }
  return parts_of(random[0], random[1], own[0], own[1]);
}

}  // namespace onnxfold
