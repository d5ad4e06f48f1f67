#include "exec/feeds.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/run.h"

namespace onnxfold {
namespace {

tl::unexpected<Error> bad_input(const Value& input, const std::string& given) {
  return fail(Code::kInvalidArgument,
              fmt::format("input \"{}\": expected {}, got {}", input.name(), to_string(input.type()), given));
}

Status check_array(const Value& input, const Array& array) {
  const Type& type = input.type();
  const std::string given = fmt::format("{}{}", name(array.dtype()), dims_text(array.dims()));
  if (!array.defined()) return bad_input(input, "an undefined array");
  if (type.dtype != DType::kUndefined && type.dtype != array.dtype()) return bad_input(input, given);
  if (!type.shape) return {};
  if (type.shape->size() != array.dims().size()) return bad_input(input, given);
  for (std::size_t i = 0; i < type.shape->size(); ++i) {
    const Dim& dim = (*type.shape)[i];
    if (dim.known() && *dim.value != array.dims()[i]) return bad_input(input, given);
  }
  return {};
}

Status check_feed(const Value& input, const Datum& datum) {
  const Type::Kind expected = input.type().kind;
  if (!datum.present()) return bad_input(input, "nothing");
  if (expected == Type::Kind::kNone) return {};
  if (expected == Type::Kind::kTensor) {
    if (!datum.is_array()) return bad_input(input, "something that is not a tensor");
    return check_array(input, datum.array);
  }
  if (expected == Type::Kind::kSequence && datum.kind != Datum::Kind::kSequence) {
    return bad_input(input, to_string(type_of(datum)));
  }
  return {};
}

std::string input_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Value* input : graph.inputs()) names.push_back(input->name());
  return fmt::format("{}", fmt::join(names, ", "));
}

Result<Datum> feed_for(const Value& input, const Feeds& feeds, Precision precision) {
  const auto found = feeds.find(input.name());
  if (found != feeds.end()) {
    OF_TRY(check_feed(input, found->second));
    return in_precision(found->second, precision);
  }
  if (const Tensor* fallback = input.initializer()) {
    OF_ASSIGN(Array array, to_array(*fallback, precision));
    return Datum(std::move(array));
  }
  if (input.type().kind == Type::Kind::kOptional) return Datum::optional({});
  return bad_input(input, "nothing: it is missing from the data");
}

}  // namespace

Datum in_precision(Datum datum, Precision precision) {
  if (datum.items != nullptr) {
    std::vector<Datum> items;
    for (const Datum& item : *datum.items) items.push_back(in_precision(item, precision));
    return datum.kind == Datum::Kind::kSequence ? Datum::sequence(std::move(items)) : Datum::optional(std::move(items));
  }
  if (!datum.is_array()) return datum;
  const Array& array = datum.array;
  const Storage wanted = storage_for(array.dtype(), precision);
  if (array.storage() == wanted) return datum;
  Array converted(array.dtype(), array.dims(), precision);
  visit_float(array.storage(), [&]<typename From>(Tag<From>) {
    visit_float(wanted, [&]<typename To>(Tag<To>) {
      std::copy_n(array.data<From>(), array.size(), converted.mutable_data<To>());
    });
  });
  return Datum(std::move(converted));
}

Result<std::vector<Datum>> collect_feeds(const Graph& graph, const Feeds& feeds, Precision precision) {
  // A name nobody knows is a misspelt one when an input goes without; else data of an input that a pass took away.
  const auto lacks = [&](const Value* input) { return !feeds.contains(input->name()); };
  const bool complete = std::none_of(graph.inputs().begin(), graph.inputs().end(), lacks);
  for (const auto& [name, datum] : feeds) {
    const auto matches = [&wanted = name](const Value* input) { return input->name() == wanted; };
    if (!complete && std::none_of(graph.inputs().begin(), graph.inputs().end(), matches)) {
      return fail(Code::kInvalidArgument,
                  fmt::format("the model has no input \"{}\"; its inputs are: {}", name, input_names(graph)));
    }
  }
  std::vector<Datum> inputs;
  for (const Value* input : graph.inputs()) {
    OF_ASSIGN(Datum datum, feed_for(*input, feeds, precision));
    inputs.push_back(std::move(datum));
  }
  return inputs;
}

}  // namespace onnxfold
