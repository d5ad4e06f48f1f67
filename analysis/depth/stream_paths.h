// A residual stream as a sum of paths (Veit et al. 2016; "Vision Transformer as a path ensemble", arXiv 2308.06548):
// the stream that the head reads is the input of the blocks plus what every sublayer adds.
#pragma once

#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/structure/blocks.h"

namespace onnxfold {

struct StreamPath {
  std::string label;  // "block 3 attention"
  std::string value;  // the addend
};

struct StreamPaths {
  std::vector<StreamPath> paths;  // the input of the blocks first
  std::string last;               // their sum: the stream behind the last block
};
// Of the stream that the last block belongs to. Errors: unsupported, when there are no blocks or their stream is no
// plain sum (post-norm, convolutions).
Result<StreamPaths> find_stream_paths(const Graph& graph);

// last + sum over paths of (scale - 1) * addend takes the place of `last` for its readers: the running stream that
// blocks read stays as it is.
struct PathScales {
  StreamPaths paths;
  std::vector<std::vector<double>> scale;    // by path: one a channel
  double error_before = 0, error_after = 0;  // relative L2 error of the stream on rows held out
  bool accepted = false;                     // the held-out error fell; else all scales are 1
};
// Scales that bring the student's last stream to the teacher's: ridge toward 1, for every channel by itself or one for
// all of them. Two models of one width; names of values need not agree. Errors: those of find_stream_paths for either;
// unsupported, when the streams differ in shape or the addends do not add up to the stream; the executor's.
Result<PathScales> fit_path_scales(const Model& student, const Model& teacher, const Dataset& data, bool by_channel);
// Writes them: a Mul and an Add for every path whose scale is not 1 everywhere. Returns how many.
Result<std::size_t> put_path_scales(Graph& graph, const PathScales& scales);

}  // namespace onnxfold
