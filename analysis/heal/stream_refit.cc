#include "analysis/heal/stream_refit.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "ir/match.h"
#include "ir/numeric.h"

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

}  // namespace

Value* stream_sum(const Sublayer& sublayer) {
  return sublayer.add->is("Add") ? sublayer.add->output() : sublayer.add->output(3);
}

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
  const Value* sum = stream_sum(*last) != nullptr ? stream_sum(*last) : last->add->output();
  RefitJob job{writer->linear, {wanted, last->stream->name(), sum->name(), {}, writer->scale}};
  if (owner->final_norm && owner->final_norm->output == stream && stream_sum(*last) != nullptr) {
    job.target.through = owner->final_norm;
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
  std::vector<RefitJob> jobs;
  if (last != nullptr) {
    OF_ASSIGN(const auto writer, stream_writer(*last));
    forget_from(writer ? *writer->linear.product : *last->add);
    OF_ASSIGN(const auto job, job_at_cut(view, stream, teacher_stream));
    if (options.at_the_cut && job) jobs.push_back(*job);
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
  if (options.readers || options.writers) {
    OF_ASSIGN(const std::vector<RefitJob> behind, jobs_behind(teacher_.graph().find(teacher_stream), options));
    jobs.insert(jobs.end(), behind.begin(), behind.end());
  }
  return refit_in_order(jobs, options);
}

Status StreamRefit::heal_all(const StreamRefitOptions& options) {
  known_ = Recording{std::vector<Taps>(data_.batches.size())};
  OF_ASSIGN(const std::vector<RefitJob> jobs, jobs_behind(nullptr, options));
  return refit_in_order(jobs, options);
}

// The Linears behind a value of the teacher: those of blocks that the student still has, and those behind the last
// block, in the order in which they run.
Result<std::vector<RefitJob>> StreamRefit::jobs_behind(const Value* teacher_stream, const StreamRefitOptions& options) {
  view_ = find_blocks(teacher_.graph());
  OF_ASSIGN(targets_, RefitTargets::create(view_));
  std::set<const Node*> members;
  for (const Block& block : view_.blocks) {
    if (block.output == nullptr || student_.graph().find(block.output->name()) == nullptr) continue;
    members.insert(block.nodes.begin(), block.nodes.end());
  }
  std::map<std::string, RefitJob> at_gaps;  // by the name of the Linear's output
  const BlockView present = options.gaps.empty() ? BlockView() : find_blocks(student_.graph());
  for (const auto& [stream, wanted] : options.gaps) {
    const Value* value = student_.graph().find(stream);
    if (value == nullptr) continue;
    OF_ASSIGN(auto job, job_at_cut(present, value, wanted));
    if (job) at_gaps.emplace(job->linear.output->name(), std::move(*job));
  }
  const Node* last = view_.blocks.empty() ? nullptr : view_.blocks.back().sublayers.back().add;
  std::vector<RefitJob> jobs;
  for (const Linear& linear : find_linears(teacher_.graph())) {
    const bool earlier = teacher_stream != nullptr && teacher_stream->producer() != nullptr &&
                         teacher_.graph().before(*linear.product, *teacher_stream->producer());
    const bool behind_all = last == nullptr || teacher_.graph().before(*last, *linear.product);
    if (earlier || (members.count(linear.product) == 0 && !behind_all)) continue;
    const auto at_gap = at_gaps.find(linear.output->name());
    if (at_gap != at_gaps.end() && options.writers) {
      jobs.push_back(at_gap->second);
    } else if (auto job = job_of(linear, options)) {
      jobs.push_back(std::move(*job));
    }
  }
  return jobs;
}

std::optional<RefitJob> StreamRefit::job_of(const Linear& teacher_linear, const StreamRefitOptions& options) const {
  if (targets_.is_writer(teacher_linear) ? !options.writers : !options.readers) return {};
  return targets_.job_of(student_.graph(), teacher_linear);
}

Status StreamRefit::refit_in_order(const std::vector<RefitJob>& jobs, const StreamRefitOptions& options) {
  if (jobs.empty()) return {};
  std::vector<std::string> ours, theirs;
  for (const RefitJob& job : jobs) {
    for (const std::string& name : student_values(job)) ours.push_back(name);
    ours.push_back(job.linear.output->name());
    if (!job.target.student_sum.empty())
      ours.push_back(job.target.student_sum);  // what it is added to lives until then
    theirs.push_back(job.target.teacher);
  }
  OF_ASSIGN(const auto student, ModelWalk::create(student_, data_, known_, ours));
  OF_ASSIGN(const auto teacher, ModelWalk::create(teacher_, data_, teacher_values_, theirs));
  inputs_.reset();
  for (const RefitJob& job : jobs) OF_TRY(refit_one(job, *student, *teacher, options));
  return {};
}

Status StreamRefit::refit_one(const RefitJob& job, ModelWalk& student, ModelWalk& teacher,
                              const StreamRefitOptions& options) {
  const std::string label = job.linear.product->label();
  Recording mine{std::vector<Taps>(data_.batches.size())}, wanted = mine;
  OF_ASSIGN(const std::vector<Datum> target, teacher.pass(job.target.teacher));
  if (job.linear.weight->uses().size() > 1 || job.linear.product->input(1)->uses().size() > 1) {
    notes_.push_back({label, "not refitted: its weight is shared", false});
    return {};
  }
  OF_TRY(student.stop_before(job.linear.product->output()->name()));
  for (const std::string& name : student_values(job)) {
    OF_ASSIGN(const std::vector<Datum> data, student.here(name));
    for (std::size_t i = 0; i < data.size(); ++i) mine.batches[i][name] = data[i];
  }
  for (std::size_t i = 0; i < target.size(); ++i) wanted.batches[i][job.target.teacher] = target[i];
  const bool masked = rows_maskable(job, mine.batches.at(0), wanted.batches.at(0));
  const bool ones = job.linear.bias != nullptr;
  if (!inputs_ || inputs_->value != job.linear.input->name() || inputs_->ones != ones || inputs_->masked != masked) {
    OF_ASSIGN(inputs_, refit_inputs(job, mine, data_, masks_, masked));
  }
  OF_ASSIGN(const Matrix prior, stacked_weight(job.linear));
  OF_ASSIGN(const auto rows, left_over(job, *inputs_, prior, mine, wanted, masks_));
  if (!rows) {
    notes_.push_back({label, "not refitted: rows of the two models do not correspond", false});
    return {};
  }
  std::vector<double> dampings;
  for (const double damping : default_dampings()) {
    if (damping >= options.least_damping) dampings.push_back(damping);
  }
  OF_ASSIGN(const Refit result, refit_left_over(*rows, prior, dampings));
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
  return feed_on(job, student);
}

// What comes behind a refitted Linear reads what its new weight makes: the walk still has the old nodes.
Status StreamRefit::feed_on(const RefitJob& job, ModelWalk& student) {
  const Linear& old = job.linear;
  const auto now = linear_making(student_.graph().find(old.output->name()));
  if (!now) return fail(Code::kInternal, fmt::format("'{}' is no Linear any more", old.product->label()));
  OF_ASSIGN(Matrix weight, weight_matrix(*now));
  for (double& number : weight.data) number /= old.alpha;
  const bool out_in = old.stored_out_in != (old.weight_transpose != nullptr);
  if (out_in) weight = transposed(weight);
  const auto feed = [&](const std::string& made, std::size_t input, const Dims& dims,
                        const std::vector<double>& numbers) -> Status {
    OF_ASSIGN(const Tensor tensor, from_doubles(now->weight->dtype(), dims, numbers));
    OF_ASSIGN(Array array, to_array(tensor, Precision::kFloat32));
    return student.replace_operand(made, input, Datum(std::move(array)));
  };
  OF_TRY(feed(old.product->output()->name(), 1, {weight.rows, weight.cols}, weight.data));
  if (old.bias == nullptr) return {};
  OF_ASSIGN(std::vector<double> bias, bias_vector(*now));
  for (double& number : bias) number /= old.beta;
  const Dims dims = {static_cast<std::int64_t>(bias.size())};
  if (old.bias_add == nullptr) return feed(old.product->output()->name(), 2, dims, bias);
  const bool first = old.bias_add->input(0) == old.product->output();
  return feed(old.bias_add->output()->name(), first ? 1 : 0, dims, bias);
}

}  // namespace onnxfold
