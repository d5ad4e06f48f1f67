#include "ir/attribute.h"

#include <cassert>

#include "ir/graph.h"

namespace onnxfold {

Attribute::Attribute(std::string attribute_name, AttributeValue attribute_value)
    : name(std::move(attribute_name)), value(std::move(attribute_value)) {}
Attribute::~Attribute() = default;
Attribute::Attribute(Attribute&&) noexcept = default;
Attribute& Attribute::operator=(Attribute&&) noexcept = default;

Attribute Attribute::copy() const {
  AttributeValue copied = std::visit(
      [](const auto& held) -> AttributeValue {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, std::unique_ptr<Graph>> ||
                      std::is_same_v<T, std::vector<std::unique_ptr<Graph>>>) {
          assert(false && "graphs are copied by Graph::clone");
          return std::int64_t{0};
        } else {
          return held;
        }
      },
      value);
  Attribute result(name, std::move(copied));
  result.doc_string = doc_string;
  result.tensor_name = tensor_name;
  return result;
}

}  // namespace onnxfold
