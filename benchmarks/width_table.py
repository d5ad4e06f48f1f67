"""Quality of a model with a quarter of its hidden neurons or heads removed: refitted, beside magnitude at the same size.

    python benchmarks/width_table.py [--model M.onnx --calibration C.npz --data D.npz] [--ratio 0.25]

Without a model: both samples. Needs build/release/cli/onnxfold and no Python package. Prints a Markdown table of
parameters, task metric, relative error of the outputs and the share of magnitude's damage (of the task metric where there
is one, else of the error) that is left."""

import argparse
import json
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONNXFOLD = ROOT / "build/release/cli/onnxfold"
SAMPLES = [("bytelm.onnx", "kjv_calib.npz", "kjv_valid.npz"), ("vit_a.onnx", "digits_train_500.npz", "digits_test.npz")]


def measure(model, calibration, data, options):
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [ONNXFOLD, "compress", model, "-o", pathlib.Path(folder) / "out.onnx", "--recipe", "clean", "--pass", options,
                   "--calibration", calibration, "--data", data, "--report", report, "--controls", "no", "-q", "-f"]
        subprocess.run([str(part) for part in command], stderr=subprocess.DEVNULL, check=False)
        return json.loads(report.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--calibration", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--ratio", type=float, default=0.25)
    arguments = parser.parse_args()
    models = [(arguments.model, arguments.calibration, arguments.data)] if arguments.model else \
        [tuple(ROOT / "samples" / name for name in names) for names in SAMPLES]
    print("| model | pass | parameters | metric | error | of magnitude's damage |\n| --- | --- | --- | --- | --- | --- |")
    for model, calibration, data in models:
        for name in ("prune-neurons", "prune-heads"):
            reference = None
            for how in ("score=magnitude,refit=false,", ""):
                report = measure(model, calibration, data, f"{name}:ratio={arguments.ratio},spread=uniform,{how}".rstrip(","))
                check = report["check"]
                error = max(output["max_rel_l2"] for output in check["outputs"])
                task = check["task"]
                damage = abs(task["after"] - task["before"]) if task else error
                reference = damage if reference is None else reference
                metric = f"{task['before']:.4f} -> {task['after']:.4f}" if task else "-"
                share = "" if how else f"{damage / reference:.2f}" if reference else "-"
                print(f"| {model.name} | {name}{', magnitude' if how else ', refitted'} | {report['target']['parameters']:,} | "
                      f"{metric} | {error:.4f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
