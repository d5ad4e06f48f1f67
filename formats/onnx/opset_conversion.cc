// Raising the default opset with ONNX's version converter. Large weights stay behind and are put back by name.
#include <fmt/format.h>
#include <onnx/version_converter/convert.h>

#include <charconv>

#include "formats/onnx/proto.h"
#include "formats/onnx/schema.h"

namespace onnxfold {
namespace {

// Adapters read small constants (axes, splits); they never look into weights.
constexpr std::int64_t kSmallTensor = 4096;

// Swaps large tensors for one-byte stand-ins whose name tells which tensor they stand for.
class Weights {
 public:
  onnx_proto::TensorExporter exporter() {
    return [this](const Tensor& tensor, onnx::TensorProto& proto) -> Status {
      if (tensor.dtype() == DType::kString || tensor.nbytes() <= kSmallTensor) {
        return onnx_proto::export_inline(tensor, proto);
      }
      const auto key = static_cast<std::int64_t>(kept_.size());
      kept_.push_back(tensor);
      proto.set_raw_data(fmt::format("{}{}", kMark, key));
      return {};
    };
  }

  // Replaces the marks by external references that the importer hands back to us.
  void mark(onnx::GraphProto& graph) const {
    for (auto& initializer : *graph.mutable_initializer()) mark(initializer);
    for (auto& node : *graph.mutable_node()) {
      for (auto& attribute : *node.mutable_attribute()) {
        if (attribute.has_t()) mark(*attribute.mutable_t());
        if (attribute.has_g()) mark(*attribute.mutable_g());
      }
    }
  }

  onnx_proto::ExternalOpener opener() const {
    return [this](const onnx::TensorProto& proto, DType dtype, const Dims& dims) -> Result<Tensor> {
      const Tensor* tensor = find(proto.external_data(0).value());
      if (tensor == nullptr || tensor->dtype() != dtype || tensor->size() != element_count(dims)) {
        return fail(Code::kUnsupported, fmt::format("the conversion would change weight '{}'", proto.name()));
      }
      return tensor->dims() == dims ? *tensor : tensor->reshaped(dims);
    };
  }

 private:
  static constexpr std::string_view kMark = "onnxfold-weight-";

  const Tensor* find(std::string_view key) const {
    std::size_t index = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
    const bool valid = error == std::errc() && end == key.data() + key.size() && index < kept_.size();
    return valid ? &kept_[index] : nullptr;
  }

  // A small tensor whose own bytes look like a mark has the size its shape needs; a stand-in never has.
  static bool is_mark(const onnx::TensorProto& proto) {
    if (!proto.has_raw_data() || !std::string_view(proto.raw_data()).starts_with(kMark)) return false;
    const Dims dims(proto.dims().begin(), proto.dims().end());
    const auto own = packed_bytes(static_cast<DType>(proto.data_type()), element_count(dims));
    return own && *own > kSmallTensor;
  }

  static void mark(onnx::TensorProto& proto) {
    if (!is_mark(proto)) return;
    auto* entry = proto.add_external_data();
    entry->set_key("location");
    entry->set_value(proto.raw_data().substr(kMark.size()));
    proto.clear_raw_data();
    proto.set_data_location(onnx::TensorProto::EXTERNAL);
  }

  std::vector<Tensor> kept_;
};

// ONNX Runtime keeps some operators of its own (SimplifiedLayerNormalization) in the standard's domain. No version of
// the standard has them, so the converter must not see them there.
constexpr const char* kAsideDomain = "onnxfold.aside";

template <typename Visit>
void for_each_node(onnx::GraphProto& graph, const Visit& visit) {
  for (auto& node : *graph.mutable_node()) {
    visit(node);
    for (auto& attribute : *node.mutable_attribute()) {
      if (attribute.has_g()) for_each_node(*attribute.mutable_g(), visit);
      for (auto& body : *attribute.mutable_graphs()) for_each_node(body, visit);
    }
  }
}

void put_aside(onnx::ModelProto& proto) {
  bool any = false;
  for_each_node(*proto.mutable_graph(), [&any](onnx::NodeProto& node) {
    const bool standard = node.domain().empty() || node.domain() == "ai.onnx";
    if (!standard || onnx::OpSchemaRegistry::Schema(node.op_type()) != nullptr) return;
    node.set_domain(kAsideDomain);
    any = true;
  });
  if (!any) return;
  auto* import = proto.add_opset_import();
  import->set_domain(kAsideDomain);
  import->set_version(1);
}

void bring_back(onnx::ModelProto& proto) {
  for_each_node(*proto.mutable_graph(), [](onnx::NodeProto& node) {
    if (node.domain() == kAsideDomain) node.clear_domain();
  });
  auto& imports = *proto.mutable_opset_import();
  for (int i = imports.size() - 1; i >= 0; --i) {
    if (imports[i].domain() == kAsideDomain) imports.DeleteSubrange(i, 1);
  }
}

}  // namespace

Status convert_opset(Model& model, std::int64_t target) {
  const std::int64_t current = model.graph().opset();
  if (target == current) return {};
  const auto range = onnx::OpSchemaRegistry::DomainToVersionRange::Instance().Map().at("");
  if (target < 1 || target > range.second) {
    return fail(Code::kInvalidArgument, fmt::format("opset {} does not exist; the newest is {}", target, range.second));
  }
  if (target < current) {
    return fail(Code::kUnsupported,
                fmt::format("the model has opset {}; lowering it to {} is not offered", current, target));
  }
  if (!model.functions.empty()) {
    return fail(Code::kUnsupported,
                "the model has functions; run the pass inline-functions before the opset is raised");
  }
  Weights weights;
  onnx::ModelProto proto;
  OF_TRY(onnx_proto::export_model(model, weights.exporter(), nullptr, proto));
  put_aside(proto);
  onnx::ModelProto converted;
  try {
    converted = onnx::version_conversion::ConvertVersion(proto, static_cast<int>(target));
  } catch (const std::exception& error) {
    std::string text = error.what();
    for (char& c : text) c = c == '\n' ? ' ' : c;
    return fail(Code::kUnsupported, fmt::format("opset {} to {}: {}", current, target, text));
  }
  bring_back(converted);
  weights.mark(*converted.mutable_graph());
  OF_ASSIGN(auto fresh, onnx_proto::import_model(std::move(converted), weights.opener()));
  model.adopt_graph(*fresh);
  return {};
}

}  // namespace onnxfold
