#include "passes/reparam/parallel/block_pairs.h"

#include <algorithm>

namespace onnxfold {
namespace {

ResidualBranch branch_of(const Sublayer& sublayer) {
  return {sublayer.add, sublayer.stream, sublayer.addend, sublayer.reads, sublayer.nodes};
}

bool has(const std::vector<Node*>& nodes, const Node* node) {
  return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
}

// Besides the branches and their Adds only shapes of the stream are read.
bool private_stream(const Value& value, const std::vector<ResidualStage>& first,
                    const std::vector<ResidualStage>& second) {
  return std::all_of(value.uses().begin(), value.uses().end(), [&](const Use& use) {
    if (use.node == nullptr || use.node->graph() != value.graph()) return false;
    if (use.node->is("Shape")) return true;
    for (const auto* stages : {&first, &second}) {
      for (const ResidualStage& stage : *stages) {
        for (const ResidualBranch& branch : stage) {
          if (use.node == branch.add || has(branch.nodes, use.node)) return true;
        }
      }
    }
    return false;
  });
}

void read(Graph& graph, const ResidualBranch& branch, Value* value) {
  for (Node* node : branch.nodes) {
    for (std::size_t i = 0; i < node->inputs().size(); ++i) {
      if (node->input(i) == branch.reads) graph.set_input(*node, i, value);
    }
  }
}

}  // namespace

std::vector<ResidualStage> residual_stages(const Block& block, std::string& why) {
  std::vector<ResidualStage> stages;
  const bool apart = block.kind == Block::Kind::kPreNorm || block.kind == Block::Kind::kParallel ||
                     block.kind == Block::Kind::kSandwich || block.kind == Block::Kind::kBranchNorm;
  if (!apart || block.output == nullptr) {
    why = "a " + std::string(name(block.kind)) + " block: its stream passes more than Adds";
    return {};
  }
  for (const Sublayer& sublayer : block.sublayers) {
    if (sublayer.add == nullptr || !sublayer.add->is("Add") || sublayer.reads == nullptr) {
      why = "a residual join is no Add";
      return {};
    }
    const bool known = std::any_of(stages.begin(), stages.end(), [&](const ResidualStage& stage) {
      return std::any_of(stage.begin(), stage.end(), [&](const auto& branch) { return branch.add == sublayer.add; });
    });
    if (known) continue;
    if (stages.empty() || stages.back().front().reads != sublayer.reads) stages.emplace_back();
    stages.back().push_back(branch_of(sublayer));
  }
  Value* at = block.input;
  for (const ResidualStage& stage : stages) {
    bool chained = stage.front().reads == at;
    for (const ResidualBranch& branch : stage) {
      chained = chained && branch.stream == at;
      at = branch.add->output();
    }
    if (!chained) {
      why = "its Adds are no chain";
      return {};
    }
  }
  if (at != block.output) why = "the stream passes more than Adds";
  return at == block.output ? stages : std::vector<ResidualStage>{};
}

std::string pair_conflict(const Block& first, const Block& second) {
  std::string why;
  const std::vector<ResidualStage> a = residual_stages(first, why), b = residual_stages(second, why);
  if (a.empty() || b.empty()) return why.empty() ? "no residual branches" : why;
  if (first.output != second.input) return "the second does not follow the first";
  if (a.size() != b.size()) return "they have different layers";
  for (std::size_t i = 0; i < first.sublayers.size() && i < second.sublayers.size(); ++i) {
    if (first.sublayers[i].kind != second.sublayers[i].kind || first.sublayers[i].cross != second.sublayers[i].cross)
      return "they have different layers";
  }
  for (const auto* stages : {&a, &b}) {
    for (const ResidualStage& stage : *stages) {
      for (const ResidualBranch& branch : stage) {
        const Value* output = branch.add->output();
        if (output != second.output && !private_stream(*output, a, b)) return "the stream between is read elsewhere";
      }
    }
  }
  return {};
}

Status make_parallel(Graph& graph, const Block& first, const Block& second, ParallelMode mode) {
  std::string why;
  const std::vector<ResidualStage> a = residual_stages(first, why), b = residual_stages(second, why);
  Value* at = first.input;
  for (std::size_t i = 0; i < a.size(); ++i) {
    Value* reads = mode == ParallelMode::kFull ? first.input : at;
    for (const ResidualStage* stage : {&a[i], &b[i]}) {
      for (const ResidualBranch& branch : *stage) {
        read(graph, branch, reads);
        graph.set_input(*branch.add, branch.add->input(0) == branch.addend ? 1 : 0, at);
        at = branch.add->output();
      }
    }
  }
  return graph.sort_topologically();
}

}  // namespace onnxfold
