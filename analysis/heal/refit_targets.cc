#include "analysis/heal/refit_targets.h"

#include <algorithm>

#include "analysis/heal/stream_refit.h"

namespace onnxfold {
namespace {

bool alone_on_add(const Block& block, const Sublayer& sublayer) {
  return std::none_of(block.sublayers.begin(), block.sublayers.end(),
                      [&](const Sublayer& other) { return &other != &sublayer && other.add == sublayer.add; });
}

}  // namespace

Result<RefitTargets> RefitTargets::create(const BlockView& teacher) {
  RefitTargets targets;
  for (const Block& block : teacher.blocks) {
    for (const Sublayer& sublayer : block.sublayers) {
      const Value* sum = stream_sum(sublayer);
      OF_ASSIGN(auto writer, stream_writer(sublayer));
      if (!writer || sum == nullptr || !alone_on_add(block, sublayer)) continue;
      const std::size_t rest = sublayer.add->input(0) == sublayer.addend ? 1 : 0;
      targets.writers_[writer->linear.output->name()] = {sum->name(), rest, std::move(writer->scale)};
    }
  }
  return targets;
}

std::optional<RefitJob> RefitTargets::job_of(const Graph& student, const Linear& teacher_linear) const {
  const std::string& output = teacher_linear.output->name();
  const Value* made = student.find(output);
  const auto linear = made == nullptr ? std::nullopt : linear_making(made);
  if (!linear || linear->out != teacher_linear.out) return {};
  const auto writer = writers_.find(output);
  if (writer == writers_.end()) return RefitJob{*linear, {output, "", "", {}, {}}};
  const Value* sum = student.find(writer->second.sum);
  if (sum == nullptr || sum->producer() == nullptr) return {};
  const Value* rest = sum->producer()->input(writer->second.rest);
  if (rest == nullptr) return {};
  return RefitJob{*linear, {writer->second.sum, rest->name(), writer->second.sum, {}, writer->second.scale}};
}

}  // namespace onnxfold
