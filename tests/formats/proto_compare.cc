#include "tests/formats/proto_compare.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <set>
#include <vector>

namespace onnxfold::test {
namespace {

using google::protobuf::RepeatedPtrField;

template <typename Out, typename Field>
std::string bytes_of(const Field& field) {
  std::string bytes;
  for (const auto entry : field) {
    const auto value = static_cast<Out>(entry);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return bytes;
}

bool is_two_bytes(int type) {
  using T = onnx::TensorProto;
  return type == T::INT16 || type == T::UINT16 || type == T::FLOAT16 || type == T::BFLOAT16;
}

void normalize(onnx::TensorProto& tensor) {
  if (tensor.data_type() == onnx::TensorProto::STRING) return;
  if (tensor.raw_data().empty()) {
    std::string bytes = bytes_of<float>(tensor.float_data()) + bytes_of<double>(tensor.double_data()) +
                        bytes_of<std::int64_t>(tensor.int64_data());
    const int type = tensor.data_type();
    bytes += type == onnx::TensorProto::UINT32 ? bytes_of<std::uint32_t>(tensor.uint64_data())
                                               : bytes_of<std::uint64_t>(tensor.uint64_data());
    bytes += type == onnx::TensorProto::INT32 ? bytes_of<std::int32_t>(tensor.int32_data())
             : is_two_bytes(type)             ? bytes_of<std::int16_t>(tensor.int32_data())
                                              : bytes_of<std::int8_t>(tensor.int32_data());
    tensor.set_raw_data(bytes);
  }
  tensor.clear_float_data();
  tensor.clear_double_data();
  tensor.clear_int64_data();
  tensor.clear_uint64_data();
  tensor.clear_int32_data();
  tensor.clear_data_location();
}

template <typename T, typename Key>
void sort_by(RepeatedPtrField<T>& field, Key key) {
  std::stable_sort(field.pointer_begin(), field.pointer_end(),
                   [&](const T* a, const T* b) { return key(*a) < key(*b); });
}

const auto kName = [](const auto& each) { return each.name(); };
const auto kDomain = [](const auto& each) { return each.domain(); };

void normalize(onnx::GraphProto& graph);

void normalize(onnx::SparseTensorProto& sparse) {
  normalize(*sparse.mutable_values());
  normalize(*sparse.mutable_indices());
}

void normalize(onnx::NodeProto& node) {
  if (node.domain() == "ai.onnx") node.clear_domain();
  for (auto& attribute : *node.mutable_attribute()) {
    if (attribute.has_t()) normalize(*attribute.mutable_t());
    if (attribute.has_g()) normalize(*attribute.mutable_g());
    if (attribute.has_sparse_tensor()) normalize(*attribute.mutable_sparse_tensor());
    for (auto& tensor : *attribute.mutable_tensors()) normalize(tensor);
    for (auto& graph : *attribute.mutable_graphs()) normalize(graph);
  }
  sort_by(*node.mutable_attribute(), kName);
}

void normalize(onnx::GraphProto& graph) {
  std::set<std::string> described;
  for (auto& initializer : *graph.mutable_initializer()) {
    normalize(initializer);
    described.insert(initializer.name());
  }
  for (auto& sparse : *graph.mutable_sparse_initializer()) normalize(sparse);
  std::set<std::string> made;
  for (auto& node : *graph.mutable_node()) {
    normalize(node);
    for (const std::string& name : node.output()) (node.op_type() == "Constant" ? described : made).insert(name);
  }
  auto& infos = *graph.mutable_value_info();
  for (const auto& output : graph.output()) described.insert(output.name());
  for (int i = infos.size() - 1; i >= 0; --i) {
    if (described.contains(infos[i].name()) || !made.contains(infos[i].name())) infos.DeleteSubrange(i, 1);
  }
  sort_by(infos, kName);
  sort_by(*graph.mutable_initializer(), kName);
}

template <typename Imports>
void normalize_imports(Imports& imports) {
  for (auto& each : imports) each.set_domain(each.domain() == "ai.onnx" ? "" : each.domain());
  sort_by(imports, kDomain);
}

// A text field that is set to nothing says no more than one that is not set.
void clear_empty_texts(google::protobuf::Message& message) {
  using Field = google::protobuf::FieldDescriptor;
  const auto* reflection = message.GetReflection();
  std::vector<const Field*> fields;
  reflection->ListFields(message, &fields);
  for (const Field* field : fields) {
    if (field->cpp_type() == Field::CPPTYPE_MESSAGE) {
      const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
      for (int i = 0; i < count; ++i) {
        clear_empty_texts(field->is_repeated() ? *reflection->MutableRepeatedMessage(&message, field, i)
                                               : *reflection->MutableMessage(&message, field));
      }
    } else if (field->type() == Field::TYPE_STRING && !field->is_repeated() &&
               reflection->GetString(message, field).empty()) {
      reflection->ClearField(&message, field);
    }
  }
}

void normalize(onnx::ModelProto& model) {
  normalize(*model.mutable_graph());
  normalize_imports(*model.mutable_opset_import());
  for (auto& function : *model.mutable_functions()) {
    for (auto& node : *function.mutable_node()) normalize(node);
    normalize_imports(*function.mutable_opset_import());
    sort_by(*function.mutable_value_info(), kName);
  }
  if (model.model_version() == 0) model.clear_model_version();
  clear_empty_texts(model);
}

}  // namespace

std::string proto_difference(onnx::ModelProto expected, onnx::ModelProto actual) {
  if (actual.ir_version() < expected.ir_version()) return "the IR version fell";
  actual.set_ir_version(expected.ir_version());
  normalize(expected);
  normalize(actual);
  google::protobuf::util::MessageDifferencer differencer;
  std::string text;
  differencer.ReportDifferencesToString(&text);
  if (differencer.Compare(expected, actual)) return {};
  return text.substr(0, 2000);
}

}  // namespace onnxfold::test
