"""The policies of `ot` for two ViTs, beside what a Python and POT reference measured: accuracy of every setting, in percent.

    python benchmarks/policy_table.py MODELS [--samples 200] [--first] [--wide]

MODELS is a folder with vit_a.onnx, vit_b.onnx (the anchor), vit_wide.onnx, digits_train_500.npz and digits_test.npz. Calibrated
on the last (with --first: the first) samples of digits_train_500.npz without their labels, all positions. Prints Markdown;
reference values in brackets, those farther than 3 points marked with *. --wide: vit_wide.onnx into vit_b.onnx instead, beside
the reference's two values. Needs numpy and build/release/cli/onnxfold (or $ONNXFOLD)."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ONNXFOLD = os.environ.get("ONNXFOLD", pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold")
POLICIES = ["mean", "weighted-scalar", "weighted-matrix", "no-resid", "only-resid", "identity"]
ROWS = [("activations", "sinkhorn"), ("activations", "exact"), ("weights", "sinkhorn"), ("weights", "exact")]
REFERENCE = {
    ("activations", "sinkhorn"): [52.6, 52.9, 52.7, 56.3, 51.7, 37.8],
    ("activations", "exact"): [39.2, 37.0, 36.5, 40.3, 20.3, 17.4],
    ("weights", "sinkhorn"): [38.6, 40.4, 40.9, 39.2, 55.6, 38.5],
    ("weights", "exact"): [38.1, 30.0, 24.5, 47.5, 48.8, 39.7],
}
WIDE_REFERENCE = {("activations", "sinkhorn"): [52.2, None, None, 55.5, None, None]}


def calibration(models, samples, first, folder):
    images = np.load(models / "digits_train_500.npz")["pixels"]
    target = folder / "calibration.npz"
    np.savez(target, pixels=images[:samples] if first else images[-samples:])
    return target


def accuracy(first, anchor, features, solver, policy, data, test, folder):
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    method = f"ot:features={features},solver={solver},policy={policy},positions=all"
    command = [ONNXFOLD, "merge", first, anchor, "-o", folder / "out.onnx", "-f", "-q", "--method", method,
               "--calibration", data, "--data", test, "--report", report]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if not report.exists():
        print(done.stderr.strip().splitlines()[-1:], file=sys.stderr, flush=True)
        return None
    models = json.loads(report.read_text())["merge"]["models"]
    return 100 * next(each["task"] for each in models if each["model"] == "merged")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--wide", action="store_true")
    arguments = parser.parse_args()
    models = arguments.models
    reference = WIDE_REFERENCE if arguments.wide else REFERENCE
    print("| features, solver | " + " | ".join(POLICIES) + " |\n| --- |" + " --- |" * len(POLICIES), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = calibration(models, arguments.samples, arguments.first, folder)
        for features, solver in ROWS:
            print(f"| {features}, {solver} |", end="", flush=True)
            for policy, known in zip(POLICIES, reference.get((features, solver), [None] * len(POLICIES))):
                first = models / ("vit_wide.onnx" if arguments.wide else "vit_a.onnx")
                value = accuracy(first, models / "vit_b.onnx", features, solver, policy, data, models / "digits_test.npz", folder)
                beside = "" if known is None else f" ({known})" + ("*" if value is None or abs(value - known) > 3 else "")
                print(" -" if value is None else f" {value:.1f}{beside}", end=" |", flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()
