#include "converter/bct_table.h"

#include <fmt/format.h>

#include <cmath>

#include "analysis/compare/damage.h"
#include "converter/model_files.h"
#include "converter/pipeline.h"
#include "formats/onnx/schema.h"
#include "passes/quantize/bct/constant_blocks.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kBlocks[] = {32, 64, 128, 256, 512, 1024, 2048, 4096};

// What one model does on the data, beside the model before.
class Meter {
 public:
  static Result<Meter> create(const Model& original, const Dataset& data) {
    OF_ASSIGN(DamageMeter error, DamageMeter::create(original, data, DamageMeter::Kind::kError));
    OF_ASSIGN(DamageMeter task, DamageMeter::create(original, data));
    return Meter(std::move(error), std::move(task));
  }

  struct Measured {
    double error = 0;
    std::optional<double> task;
  };
  Result<Measured> measure(const Model& changed) const {
    OF_ASSIGN(const Recording outputs, record(changed, error_.data(), error_.output_names()));
    OF_ASSIGN(const Damage error, error_.measure(outputs));
    Measured measured{error.value, {}};
    if (task_.task_kind().empty()) return measured;
    OF_ASSIGN(const Damage task, task_.measure(outputs));
    measured.task = task.task;
    return measured;
  }
  const DamageMeter& task() const { return task_; }

 private:
  Meter(DamageMeter error, DamageMeter task) : error_(std::move(error)), task_(std::move(task)) {}

  DamageMeter error_, task_;
};

Status fill_weights(const Model& model, int bits, BctTable& table, BctRow& row) {
  PassContext unheard(const_cast<Model&>(model), "");
  double error = 0, squares = 0;
  std::int64_t bytes = 0;
  table.numbers = 0;
  for (const BlockedConstant& constant : find_blocked_constants(model.graph(), unheard)) {
    const Tensor& tensor = *constant.value->constant();
    const ShiftLayout layout = ShiftLayout::of(tensor.dims(), constant.axis, constant.joined, row.block);
    const ShiftFormat format{bits, row.block, true};
    OF_ASSIGN(const ShiftCodes codes, quantize_shift_blocks(tensor, layout, format));
    error += codes.squared_error;
    squares += codes.squares;
    bytes += stored_bytes(constant, format);
    table.numbers += tensor.size();
  }
  row.weight_error = squares > 0 ? std::sqrt(error / squares) : 0;
  row.bits = table.numbers > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(table.numbers) : 32;
  row.ratio = 32 / row.bits;
  return {};
}

Result<std::unique_ptr<Model>> compressed(const Model& model, int bits, std::int64_t block,
                                          const Dataset* calibration) {
  auto copy = model.clone();
  const std::string activations = calibration == nullptr ? ",activation-bits=0" : "";
  OF_ASSIGN(const RecipeStep step,
            parse_step(fmt::format("bct:weight-bits={0},embedding-bits={0},parameter-bits={0},block={1},"
                                   "activation-block={1}{2}",
                                   bits, block, activations)));
  PipelineOptions pipeline;
  pipeline.calibration = calibration;
  OF_TRY(run_pipeline(*copy, Recipe{"bct", "", {step}}, pipeline));
  return copy;
}

Result<std::int64_t> size_of(const Model& model) {
  OF_ASSIGN(const Buffer bytes, serialize_model(model));
  return static_cast<std::int64_t>(bytes.size());
}

Result<BctRow> measure_row(const Model& model, const Meter& meter, std::int64_t block, const Dataset* calibration,
                           BctTable& table) {
  BctRow row;
  row.block = block;
  OF_TRY(fill_weights(model, table.bits, table, row));
  {
    OF_ASSIGN(const auto changed, compressed(model, table.bits, block, nullptr));
    OF_ASSIGN(row.file_bytes, size_of(*changed));
    OF_ASSIGN(const Meter::Measured measured, meter.measure(*changed));
    row.output_error = measured.error;
    row.task = measured.task;
  }
  if (calibration == nullptr) return row;
  OF_ASSIGN(const auto changed, compressed(model, table.bits, block, calibration));
  OF_ASSIGN(row.whole_bytes, size_of(*changed));
  OF_ASSIGN(const Meter::Measured measured, meter.measure(*changed));
  row.whole_error = measured.error;
  row.whole_task = measured.task;
  return row;
}

std::string number(const std::optional<double>& value, const char* form = "{:.4f}") {
  return value ? fmt::format(fmt::runtime(form), *value) : "-";
}

}  // namespace

Result<BctTable> measure_bct(const BctTableOptions& options) {
  OF_ASSIGN(LoadedModel loaded, load_with_facts(options.path));
  Model& model = *loaded.model;
  BctTable table;
  table.bits = options.bits;
  table.file_bytes = loaded.facts.bytes;
  // Data first: passes may rename nothing of the interface, but shapes of inputs are clearest before them.
  OF_ASSIGN(const Dataset data, make_dataset(model, options.data, options.seed, options.max_samples));
  std::optional<Dataset> calibration;
  if (!options.calibration.empty()) {
    OF_ASSIGN(calibration, load_calibration(model, options.calibration, {}));
  }
  table.data_origin = data.origin;
  OF_ASSIGN(const Meter meter, Meter::create(*model.clone(), data));
  table.task_kind = meter.task().task_kind();
  table.task = meter.task().original().task;
  OF_ASSIGN(Recipe recipe, load_recipe("bct"));
  recipe.steps.pop_back();  // the pass itself
  OF_TRY(run_pipeline(model, recipe));
  for (const std::int64_t block : kBlocks) {
    if (options.progress)
      options.progress(static_cast<double>(table.rows.size()) / static_cast<double>(std::size(kBlocks)));
    OF_ASSIGN(BctRow row, measure_row(model, meter, block, calibration ? &*calibration : nullptr, table));
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string bct_table_text(const BctTable& table) {
  std::string text = fmt::format("{} constant numbers in blocks of {}-bit integers with an 8-bit exponent; {}\n",
                                 table.numbers, table.bits, table.data_origin);
  if (!table.task_kind.empty()) text += fmt::format("{} of the model before: {:.4f}\n", table.task_kind, table.task);
  text +=
      fmt::format("{:>6}  {:>7}  {:>6}  {:>10}  {:>11}  {:>6}  {:>10}  {:>8}  {:>11}  {:>10}  {:>8}\n", "block", "bits",
                  "ratio", "file", "file ratio", "weight", "output", "task", "file, whole", "output", "task");
  for (const BctRow& row : table.rows) {
    text += fmt::format(
        "{:>6}  {:>7.4f}  {:>6.3f}  {:>10}  {:>11.3f}  {:>5.2f}%  {:>9.3f}%  {:>8}  {:>11}  {:>10}  {:>8}\n", row.block,
        row.bits, row.ratio, row.file_bytes,
        static_cast<double>(table.file_bytes) / static_cast<double>(row.file_bytes), 100 * row.weight_error,
        100 * row.output_error, number(row.task), row.whole_bytes == 0 ? "-" : fmt::format("{}", row.whole_bytes),
        row.whole_error ? fmt::format("{:.3f}%", 100 * *row.whole_error) : "-", number(row.whole_task));
  }
  text +=
      "  bits    of a number, its share of the exponents and of what is too small to be decoded included; ratio: 32 / "
      "bits\n"
      "  weight  ||w - w'|| / ||w|| of all constants; output: the same of the model's outputs, first with constants "
      "alone in\n"
      "          blocks, then with all intermediate results in 8-bit blocks and tables for functions (--calibration)\n";
  return text;
}

}  // namespace onnxfold
