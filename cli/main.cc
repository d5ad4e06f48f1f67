// onnxfold VERB ...: dispatch, exit codes, signals.
#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <iostream>
#include <new>

#include "cli/verbs.h"
#include "converter/version.h"
#include "formats/pending_files.h"

namespace onnxfold::cli {
namespace {

struct Verb {
  std::string_view name, summary;
  Result<int> (*run)(const Words&);
};

constexpr std::array kVerbs = {
    Verb{"compress", "run a recipe or passes over a model, check the result, write it", run_compress},
    Verb{"merge", "merge models of one architecture, score parents, controls and result", run_merge},
    Verb{"verify", "compare two models on data", run_verify},
    Verb{"run", "run a model with the reference executor", run_run},
    Verb{"analyze", "measure what the blocks of a model do on data", run_analyze},
    Verb{"inspect", "show what is in a model", run_inspect},
    Verb{"convert", "change opset, place of the weights, form of low-bit weights", run_convert},
    Verb{"pack", "store a model in one smaller file, without loss", run_pack},
    Verb{"unpack", "give a packed model back", run_unpack},
    Verb{"passes", "list the passes, their options and the recipes", run_passes},
};

int exit_code(Code code) {
  switch (code) {
    case Code::kGate:
      return 1;
    case Code::kInvalidArgument:
      return 2;
    case Code::kUnsupported:
    case Code::kCorrupt:
      return 3;
    case Code::kIo:
      return 4;
    case Code::kResource:
      return 5;
    case Code::kInternal:
      return 70;
  }
  return 70;
}

extern "C" void on_signal(int signal) {
  remove_pending_files();
  _exit(128 + signal);
}

void handle_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  // A reader that went away shows as a failed write, so that temporary files are removed on the usual way out.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of writing like a full disk
}

// Buffers of megabytes come and go by the thousand. Given back to the system every time, a tenth of a run is page
// faults.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

void print_help() {
  std::cout << "Usage: onnxfold VERB ...\n\nMakes ONNX models smaller and faster, and proves what it did.\n\n";
  for (const Verb& verb : kVerbs) std::cout << fmt::format("  {:<10} {}\n", verb.name, verb.summary);
  std::cout << "\n`onnxfold VERB --help` shows the options of a verb.\n\nExample:\n"
               "  onnxfold compress model.onnx -o small.onnx --recipe int4\n";
}

Result<int> dispatch(const Words& words) {
  if (words.empty()) return fail(Code::kInvalidArgument, "missing a verb; `onnxfold --help` lists them");
  if (words[0] == "--version") {
    std::cout << "onnxfold " << version() << "\n";
    return kDone;
  }
  if (words[0] == "--help" || words[0] == "-h") {
    print_help();
    return kDone;
  }
  Words names;
  for (const Verb& verb : kVerbs) {
    if (verb.name == words[0]) return verb.run(Words(words.begin() + 1, words.end()));
    names.emplace_back(verb.name);
  }
  return fail(Code::kInvalidArgument, fmt::format("unknown verb '{}'{}", words[0], suggestion(words[0], names)));
}

Result<int> guarded(const Words& words) {
  try {
    return dispatch(words);
  } catch (const std::bad_alloc&) {
    return fail(Code::kResource, "out of memory");
  } catch (const std::exception& e) {
    return fail(Code::kInternal, e.what());
  }
}

int run(const Words& words) {
  keep_freed_memory();
  handle_signals();
  Result<int> code = guarded(words);
  if (code && !std::cout.flush()) code = fail(Code::kIo, "cannot write to standard output");
  if (code) return *code;
  const bool bug = code.error().code == Code::kInternal;
  warn(bug ? "internal error" : "error", code.error().message + (bug ? " (this is a bug of onnxfold)" : ""));
  return exit_code(code.error().code);
}

}  // namespace
}  // namespace onnxfold::cli

int main(int argc, char** argv) { return onnxfold::cli::run({argv + (argc > 0 ? 1 : 0), argv + argc}); }
