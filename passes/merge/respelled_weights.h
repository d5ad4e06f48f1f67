// Weights of one model on their way into the places, and the spelling, that another has for them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/structure/attention.h"
#include "analysis/structure/feed_forward.h"
#include "analysis/structure/norm.h"

namespace onnxfold {

class RespelledWeights {
 public:
  // Of the model and, second, of the graph that write() gets. Errors: invalid_argument, when the place cannot take the
  // weight; those of reading.
  Status take_constant(const Value& from, const Value& to, const Node* reader);
  Status take_norm(const Norm& from, const Norm& to);
  Status take_linear(const Linear& from, const Linear& to);
  Status take_attention(const Attention& from, const Attention& to);
  Status take_feed_forward(const FeedForward& from, const FeedForward& to);

  // After the last take: no Linear may be left with columns that nothing filled.
  Status finish();
  Status write(Graph& graph) const;

 private:
  // A Linear of the anchor while its columns are filled: [in + 1, out], the bias below.
  struct Columns {
    Linear linear;
    Matrix whole;
    std::vector<char> filled;
  };
  using Places = std::vector<std::int64_t>;
  Status take_columns(const Linear& from, const Places& source, const Linear& to, const Places& target, double factor);
  Status take_projection(const Projection& from, const Projection& to, double factor);
  Status take_vector(const Value* from, const Value* to, double missing, const std::string& where);
  Status put(const Value& to, const Node* reader, Tensor tensor);
  Status put_linear(const Columns& columns);

  struct Extra {
    const Value* constant;
    const Node* reader;
    Tensor tensor;
  };
  std::vector<Columns> columns_;
  std::map<const Node*, std::size_t> column_of_;
  std::map<const Value*, Tensor> made_;
  std::vector<const Value*> order_;
  std::vector<Extra> extras_;  // other uses of a constant that is made already: the anchor shares it
};

}  // namespace onnxfold
