#include "analysis/heal/stream_refit.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "ir/match.h"

namespace onnxfold {
namespace {

// Behind nodes that leave rows and channels as they are.
Value* behind_moves(Value* value) {
  while (value != nullptr && value->producer() != nullptr) {
    const Node* node = value->producer();
    if (!node->is("Identity") && !node->is("Reshape") && !node->is("Cast") && !node->is("Dropout") &&
        !node->is("Squeeze") && !node->is("Unsqueeze")) {
      break;
    }
    if (value != node->output() || !sole_consumer(value)) break;
    value = node->input(0);
  }
  return value;
}

const Sublayer* sublayer_making(const BlockView& view, const Value* stream, const Block** owner) {
  for (const Block& block : view.blocks) {
    for (const Sublayer& sublayer : block.sublayers) {
      const bool last = &sublayer == &block.sublayers.back();
      const bool makes =
          sublayer.add->output() == stream || sublayer.add->output(3) == stream || (last && block.output == stream);
      if (!makes) continue;
      *owner = &block;
      return &sublayer;
    }
  }
  return nullptr;
}

bool alone_on_add(const Block& block, const Sublayer& sublayer) {
  return std::none_of(block.sublayers.begin(), block.sublayers.end(),
                      [&](const Sublayer& other) { return &other != &sublayer && other.add == sublayer.add; });
}

Value* sum_of(const Sublayer& sublayer) {
  return sublayer.add->is("Add") ? sublayer.add->output() : sublayer.add->output(3);
}

}  // namespace

Result<std::optional<StreamWriter>> stream_writer(const Sublayer& sublayer) {
  if (sublayer.gate != nullptr || sublayer.post_norm) return std::optional<StreamWriter>();
  StreamWriter writer;
  Value* addend = behind_moves(sublayer.addend);
  if (sublayer.layer_scale != nullptr && addend->producer() != nullptr && addend->producer()->is("Mul")) {
    const Tensor* scale = constant(sublayer.layer_scale);
    if (scale == nullptr) return std::optional<StreamWriter>();
    OF_ASSIGN(writer.scale, to_doubles(*scale));
    const Node* mul = addend->producer();
    const bool first = behind_identity(mul->input(0)) == behind_identity(sublayer.layer_scale);
    addend = behind_moves(mul->input(first ? 1 : 0));
  }
  const auto linear = linear_making(addend);
  if (!linear) return std::optional<StreamWriter>();
  writer.linear = *linear;
  if (!writer.scale.empty() && static_cast<std::int64_t>(writer.scale.size()) != linear->out) {
    if (writer.scale.size() != 1) return std::optional<StreamWriter>();
    writer.scale.assign(static_cast<std::size_t>(linear->out), writer.scale.front());
  }
  return std::optional<StreamWriter>(std::move(writer));
}

Result<std::optional<RefitJob>> job_at_cut(const BlockView& student, const Value* stream, const std::string& wanted) {
  const Block* owner = nullptr;
  const Sublayer* last = sublayer_making(student, stream, &owner);
  if (last == nullptr || !alone_on_add(*owner, *last)) return std::optional<RefitJob>();
  OF_ASSIGN(const auto writer, stream_writer(*last));
  if (!writer) return std::optional<RefitJob>();
  RefitJob job{writer->linear, {wanted, last->stream->name(), "", {}, writer->scale}};
  if (owner->final_norm && owner->final_norm->output == stream && sum_of(*last) != nullptr) {
    job.target.through = owner->final_norm;
    job.target.student_sum = sum_of(*last)->name();
  }
  return std::optional<RefitJob>(std::move(job));
}

StreamRefit::StreamRefit(Model& student, const Model& teacher, const Dataset& data, const Recording& teacher_values)
    : student_(student), teacher_(teacher), data_(data), teacher_values_(teacher_values) {
  for (const Feeds& feeds : data.batches) masks_.push_back(row_mask(student, feeds));
}

void StreamRefit::forget_from(const Node& node) {
  const Graph& graph = student_.graph();
  for (const std::string& name : known_.names()) {
    const Value* value = graph.find(name);
    const bool earlier = value != nullptr && (value->producer() == nullptr || graph.before(*value->producer(), node));
    if (!earlier) known_.forget(name);
  }
}

Status StreamRefit::heal(const std::string& student_stream, const std::string& teacher_stream, Recording known,
                         const StreamRefitOptions& options) {
  known_ = std::move(known);
  BlockView view = find_blocks(student_.graph());
  const Value* stream = student_.graph().find(student_stream);
  if (stream == nullptr) return fail(Code::kInternal, fmt::format("the stream value '{}' is gone", student_stream));
  const Block* owner = nullptr;
  const Sublayer* last = sublayer_making(view, stream, &owner);
  if (last != nullptr) {
    OF_ASSIGN(const auto writer, stream_writer(*last));
    forget_from(writer ? *writer->linear.product : *last->add);
    OF_ASSIGN(const auto job, job_at_cut(view, stream, teacher_stream));
    if (options.at_the_cut && job) OF_TRY(refit_all({*job}, options));
  } else if (stream->producer() != nullptr) {
    // Nothing writes the stream here (an embedding): values behind it are stale all the same.
    for (const std::string& name : known_.names()) {
      if (name == student_stream) continue;
      const Value* value = student_.graph().find(name);
      if (value == nullptr ||
          (value->producer() != nullptr && !student_.graph().before(*value->producer(), *stream->producer()))) {
        known_.forget(name);
      }
    }
  }
  if (!options.readers && !options.writers) return {};
  OF_ASSIGN(Recording made, replay(student_, data_, known_, {student_stream}));
  known_.merge(std::move(made));
  return refit_behind(teacher_.graph().find(teacher_stream), options);
}

Status StreamRefit::heal_all(const StreamRefitOptions& options) {
  known_ = Recording{std::vector<Taps>(data_.batches.size())};
  return refit_behind(nullptr, options);
}

Status StreamRefit::find_writers() {
  for (const Block& block : view_.blocks) {
    for (const Sublayer& sublayer : block.sublayers) {
      const Value* sum = sum_of(sublayer);
      OF_ASSIGN(auto writer, stream_writer(sublayer));
      if (!writer || sum == nullptr || !alone_on_add(block, sublayer)) continue;
      writers_[writer->linear.output->name()] = {sum->name(), sublayer.addend->name(), std::move(writer->scale)};
    }
  }
  return {};
}

// The Linears behind a value of the teacher, block by block, then those behind the last block.
Status StreamRefit::refit_behind(const Value* teacher_stream, const StreamRefitOptions& options) {
  view_ = find_blocks(teacher_.graph());
  OF_TRY(find_writers());
  std::vector<Linear> linears = find_linears(teacher_.graph());
  if (teacher_stream != nullptr && teacher_stream->producer() != nullptr) {
    const auto earlier = [&](const Linear& linear) {
      return teacher_.graph().before(*linear.product, *teacher_stream->producer());
    };
    linears.erase(std::remove_if(linears.begin(), linears.end(), earlier), linears.end());
  }
  std::set<const Node*> done;
  for (const Block& block : view_.blocks) {
    if (block.output == nullptr || student_.graph().find(block.output->name()) == nullptr) continue;
    const std::set<const Node*> members(block.nodes.begin(), block.nodes.end());
    std::vector<Linear> mine;
    for (const Linear& linear : linears) {
      if (members.count(linear.product) != 0 && done.insert(linear.product).second) mine.push_back(linear);
    }
    if (mine.empty()) continue;
    OF_TRY(refit_linears(mine, options));
    OF_ASSIGN(Recording made, replay(student_, data_, known_, {block.output->name()}));
    known_.merge(std::move(made));
  }
  std::vector<Linear> rest;
  const Node* last = view_.blocks.empty() ? nullptr : view_.blocks.back().sublayers.back().add;
  for (const Linear& linear : linears) {
    if (done.count(linear.product) != 0) continue;
    if (last == nullptr || teacher_.graph().before(*last, *linear.product)) rest.push_back(linear);
  }
  return refit_linears(rest, options);
}

std::optional<RefitJob> StreamRefit::job_of(const Linear& teacher_linear, const StreamRefitOptions& options) const {
  const std::string& output = teacher_linear.output->name();
  const auto linear = linear_making(student_.graph().find(output));
  if (!linear || linear->out != teacher_linear.out) return {};
  const auto writer = writers_.find(output);
  if (writer == writers_.end()) {
    if (!options.readers) return {};
    return RefitJob{*linear, {output, "", "", {}, {}}};
  }
  const Value* sum = student_.graph().find(writer->second.sum);
  if (!options.writers || sum == nullptr || sum->producer() == nullptr) return {};
  const Node* add = sum->producer();
  const Value* rest = add->input(add->input(0)->name() == writer->second.addend ? 1 : 0);
  if (rest == nullptr || rest->name() == writer->second.addend) return {};
  return RefitJob{*linear, {writer->second.sum, rest->name(), "", {}, writer->second.scale}};
}

// Linears that read the same value are solved together, the others one after the other.
Status StreamRefit::refit_linears(const std::vector<Linear>& linears, const StreamRefitOptions& options) {
  std::vector<RefitJob> jobs;
  const Value* input = nullptr;
  for (const Linear& linear : linears) {
    auto job = job_of(linear, options);
    if (!job) continue;
    if (input != linear.input) {
      OF_TRY(refit_all(jobs, options));
      jobs.clear();
    }
    input = linear.input;
    jobs.push_back(std::move(*job));
  }
  return refit_all(jobs, options);
}

// REQUIRES that the jobs do not feed each other.
Status StreamRefit::refit_all(const std::vector<RefitJob>& jobs, const StreamRefitOptions& options) {
  if (jobs.empty()) return {};
  std::set<std::string> mine, wanted;
  for (const RefitJob& job : jobs) {
    for (const std::string& name : student_values(job)) mine.insert(name);
    wanted.insert(job.target.teacher);
  }
  OF_ASSIGN(const Recording student, replay(student_, data_, known_, {mine.begin(), mine.end()}));
  OF_ASSIGN(const Recording teacher, replay(teacher_, data_, teacher_values_, {wanted.begin(), wanted.end()}));
  for (const RefitJob& job : jobs) OF_TRY(refit_one(job, student, teacher, options));
  return {};
}

Status StreamRefit::refit_one(const RefitJob& job, const Recording& student, const Recording& teacher,
                              const StreamRefitOptions& options) {
  const std::string label = job.linear.product->label();
  if (job.linear.weight->uses().size() > 1) {
    notes_.push_back({label, "not refitted: its weight is shared", false});
    return {};
  }
  OF_ASSIGN(const auto rows, refit_rows(job, student, teacher, data_, masks_));
  if (!rows) {
    notes_.push_back({label, "not refitted: rows of the two models do not correspond", false});
    return {};
  }
  OF_ASSIGN(const Matrix prior, stacked_weight(job.linear));
  std::vector<double> dampings;
  for (const double damping : default_dampings()) {
    if (damping >= options.least_damping) dampings.push_back(damping);
  }
  OF_ASSIGN(const Refit result, refit(*rows, prior, dampings));
  if (!result.accepted) {
    notes_.push_back({label,
                      result.rows < 2 * prior.rows
                          ? fmt::format("not refitted: {} rows of data for {} inputs", result.rows, prior.rows)
                          : fmt::format("kept: no refit lowers the held-out error {:.4f}", result.error_before),
                      false});
    return {};
  }
  OF_TRY(put_stacked(student_.graph(), job.linear, result.weight));
  notes_.push_back({label,
                    fmt::format("refitted: held-out error {:.4f} -> {:.4f} (damping {:g}, {} rows)",
                                result.error_before, result.error_after, result.damping, result.rows),
                    true});
  return {};
}

}  // namespace onnxfold
