"""Quality of a model with 1, 2, ... blocks removed by greedy loss, without and with healing.

    python benchmarks/depth_table.py [--model samples/bytelm.onnx] [--calibration C.npz] [--data D.npz] [--counts 1 2 3]
        [--heal none ridge-down ridge-stream replaceme]

Needs build/release/cli/onnxfold and no Python package. Blocks are chosen and healed on the calibration data and judged on
the other; prints a Markdown table of the task metric (relative error where the data has none) and the seconds a run took."""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONNXFOLD = ROOT / "build/release/cli/onnxfold"


def measure(arguments, count, heal):
    """(metric after, metric before, seconds)"""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [ONNXFOLD, "compress", arguments.model, "-o", pathlib.Path(folder) / "out.onnx", "--recipe", "clean",
                   "--pass", f"drop-blocks:count={count},heal={heal}", "--calibration", arguments.calibration, "--data",
                   arguments.data, "--report", report, "--controls", "no", "-q", "-f"]
        start = time.perf_counter()
        subprocess.run([str(part) for part in command], stderr=subprocess.DEVNULL, check=False)
        seconds = time.perf_counter() - start
        check = json.loads(report.read_text())["check"]
    if check["task"]:
        return check["task"]["after"], check["task"]["before"], seconds
    return max(output["max_rel_l2"] for output in check["outputs"]), 0.0, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "samples/bytelm.onnx")
    parser.add_argument("--calibration", type=pathlib.Path, default=ROOT / "samples/kjv_calib.npz")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "samples/kjv_valid.npz")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--heal", nargs="+", default=["none", "replaceme", "ridge-down", "ridge-stream"])
    arguments = parser.parse_args()
    print("| blocks removed | " + " | ".join(map(str, arguments.counts)) + " |", flush=True)
    print("| --- |" + " --- |" * len(arguments.counts), flush=True)
    for heal in arguments.heal:
        rows = [measure(arguments, count, heal) for count in arguments.counts]
        print(f"| {heal} | " + " | ".join(f"{row[0]:.3f}" for row in rows) + f" | {sum(row[2] for row in rows):.0f} s",
              flush=True)
    print(f"before: {rows[0][1]:.4f}")


if __name__ == "__main__":
    main()
