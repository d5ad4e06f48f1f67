// onnxfold pack, onnxfold unpack: a model and its external data in one smaller file and back, to the byte.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "cli/progress.h"
#include "cli/verbs.h"
#include "exec/executor.h"
#include "formats/onnx/onnx_file.h"
#include "formats/packed/packed_file.h"

namespace onnxfold::cli {
namespace {

Arguments arguments_of(const char* usage, const char* summary, const char* example, const char* what) {
  Arguments arguments(usage, summary, example);
  arguments.positional(1, 1, what);
  arguments.value("output,o", "FILE", "the file to write");
  arguments.flag("force", "overwrite what exists");
  add_common(arguments);
  return arguments;
}

struct Job {
  std::string source, target;
  Common common;
  PackOptions options;
};

Result<Job> job_of(const Arguments& arguments, Progress& progress) {
  Job job;
  OF_ASSIGN(job.common, common_of(arguments));
  job.source = arguments.words()[0];
  job.target = arguments.text("output");
  if (job.target.empty()) return fail(Code::kInvalidArgument, "missing -o FILE: where to write the result");
  job.options.threads = threads();
  job.options.overwrite = arguments.has("force");
  job.options.progress = [&progress](std::int64_t done, std::int64_t total) {
    progress.update("writing", total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
  };
  return job;
}

void say(const Job& job, const PackStats& stats, std::int64_t before, std::int64_t after) {
  if (job.common.quiet) return;
  const double whole = static_cast<double>(std::max<std::int64_t>(1, stats.unpacked_bytes));
  std::cout << job.source << "  ->  " << job.target << "\n"
            << fmt::format("size        {} -> {}; packed is {:.1f} % of unpacked\n", bytes_text(before),
                           bytes_text(after), 100 * static_cast<double>(stats.packed_bytes) / whole);
  if (stats.files.size() > 1) std::cout << "files       " << fmt::format("{}", fmt::join(stats.files, ", ")) << "\n";
}

}  // namespace

Result<int> run_pack(const Words& words) {
  Arguments arguments = arguments_of(
      "pack MODEL.onnx -o MODEL.onnxz [options]",
      "Stores a model and its external data in one file, compressed without loss (zstd). Runtimes read what "
      "`onnxfold unpack` gives back.",
      "pack model-int4.onnx -o model-int4.onnxz", "the model to read");
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  Progress progress(arguments.has("quiet"));
  OF_ASSIGN(const Job job, job_of(arguments, progress));
  LoadStats loaded;  // refuses what is no model, and names the external files
  OF_TRY(load_model(job.source, &loaded));
  const std::filesystem::path path(job.source);
  std::vector<std::string> names{path.filename().string()};
  names.insert(names.end(), loaded.external_locations.begin(), loaded.external_locations.end());
  OF_ASSIGN(const PackStats stats, pack_files(path.parent_path().string(), names, job.target, job.options));
  say(job, stats, stats.unpacked_bytes, stats.packed_bytes);
  return kDone;
}

Result<int> run_unpack(const Words& words) {
  Arguments arguments =
      arguments_of("unpack MODEL.onnxz -o MODEL.onnx [options]",
                   "Gives back the model that `onnxfold pack` stored, and its external data beside it.",
                   "unpack model-int4.onnxz -o model-int4.onnx", "the packed model");
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  Progress progress(arguments.has("quiet"));
  OF_ASSIGN(const Job job, job_of(arguments, progress));
  OF_ASSIGN(const PackStats stats, unpack_files(job.source, job.target, job.options));
  say(job, stats, stats.packed_bytes, stats.unpacked_bytes);
  return kDone;
}

}  // namespace onnxfold::cli
