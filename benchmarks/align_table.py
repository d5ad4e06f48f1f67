#!/usr/bin/env python3
"""What alignment of neurons and heads does for layers that are tied: the metric, one-shot, by what is aligned.

  benchmarks/align_table.py MODEL.onnx --calibration C.npz --data D.npz [--loops 2 3] [--ranks 0 8] [--ways average ...]

Prints Markdown rows as they come: a row for each way, number of loops and rank, a column for each choice of `align`; the
metric (accuracy in percent, or what the data has), relative error of the outputs in brackets. Needs
build/release/cli/onnxfold.
"""
import argparse
import json
import os
import subprocess
import tempfile

BINARY = os.environ.get("ONNXFOLD", "build/release/cli/onnxfold")
ALIGN = ["no", "neurons", "heads", "all", "rotate"]
# Name: (options with two loops, with more, learns from data)
WAYS = {
    "average": ("start=average,factors=svd", "start=average,factors=svd", False),
    "closed": ("factors=closed", "factors=alternate", False),
    "weighted": ("start=weighted", "start=weighted", True),
    "default": ("", "", True),
}


def run(model, options, learns, arguments, folder):
    report, target = os.path.join(folder, "r.json"), os.path.join(folder, "o.onnx")
    command = [BINARY, "compress", model, "-o", target, "-f", "-q", "--controls", "no", "--data", arguments.data, "--max-rel-l2", "99",
               "--min-cosine", "-1", "--report", report, "--pass", "tie-layers:" + options]
    if learns:
        command += ["--calibration", arguments.calibration]
        if arguments.calibration_samples:
            command += ["--calibration-samples", str(arguments.calibration_samples)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not os.path.exists(report):
        return done.stderr.strip()[-80:]
    check = json.load(open(report))["check"]
    error = check["outputs"][0]["max_rel_l2"]
    task = check["task"]
    value = f"{100 * task['after']:.1f}" if "accuracy" in task["kind"] else f"{task['after']:.3f}"
    return f"{value} ({error:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--calibration-samples", type=int, default=0)
    parser.add_argument("--data", required=True)
    parser.add_argument("--loops", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--align", nargs="+", default=ALIGN)
    arguments = parser.parse_args()
    print("| | " + " | ".join(arguments.align) + " |\n| --- |" + " --- |" * len(arguments.align), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for loops in arguments.loops:
            for rank in arguments.ranks:
                for way in arguments.ways:
                    if way == "closed" and rank == 0:
                        continue  # the average
                    two, more, learns = WAYS[way]
                    options = ",".join(part for part in (f"loops={loops},rank={rank}", two if loops == 2 else more) if part)
                    print(f"| {loops} loops, rank {rank}, {way} | ", end="", flush=True)
                    for align in arguments.align:
                        print(run(arguments.model, f"{options},align={align}", learns, arguments, folder), end=" | ", flush=True)
                    print(flush=True)


if __name__ == "__main__":
    main()
