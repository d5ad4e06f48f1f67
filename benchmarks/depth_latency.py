"""Latency in ONNX Runtime before and after removing blocks, heads, neurons and rank, and agreement with the executor.

    python benchmarks/depth_latency.py [--model M.onnx --calibration C.npz] [--runs 20] [--threads 1]
        [--pass drop-blocks:count=3,heal=ridge-down] [--pass low-rank:ratio=0.5] ...

Needs numpy, onnxruntime and build/release/cli/onnxfold. Every result is loaded and run by ONNX Runtime on the first samples
of the calibration data, in turn with the original; prints a Markdown table of milliseconds (medians) and the largest error of
an output between ONNX Runtime and `onnxfold run`, relative to the output's largest element."""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONNXFOLD = ROOT / "build/release/cli/onnxfold"
PASSES = ["drop-blocks:count=3,heal=ridge-down", "low-rank:ratio=0.5", "prune-neurons:ratio=0.25", "prune-heads:ratio=0.25"]


def onnxfold(*arguments):
    subprocess.run([str(part) for part in (ONNXFOLD, *arguments, "-q", "-f")], check=True)


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def disagreement(path, runtime, feeds, folder):
    np.savez(folder / "in.npz", **feeds)
    onnxfold("run", path, "--data", folder / "in.npz", "-o", folder / "out.npz")
    ours = np.load(folder / "out.npz")
    theirs = dict(zip((output.name for output in runtime.get_outputs()), runtime.run(None, feeds)))
    return max(float(np.abs(ours[name] - value).max() / max(np.abs(value).max(), 1e-9)) for name, value in theirs.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "samples/bytelm.onnx")
    parser.add_argument("--calibration", type=pathlib.Path, default=ROOT / "samples/kjv_calib.npz")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pass", dest="passes", action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        models = {"original": arguments.model}
        for number, options in enumerate(arguments.passes or PASSES):
            models[options] = folder / f"{number}.onnx"
            onnxfold("compress", arguments.model, "-o", models[options], "--recipe", "clean", "--pass", options, "--calibration",
                     arguments.calibration, "--no-check")
        runtimes = {name: session(path, arguments.threads) for name, path in models.items()}
        data = np.load(arguments.calibration)
        feeds = {name: {each.name: data[each.name][:arguments.samples] for each in runtime.get_inputs()}
                 for name, runtime in runtimes.items()}
        times = {name: [] for name in runtimes}
        for run in range(arguments.runs + 2):
            for name, runtime in runtimes.items():
                start = time.perf_counter()
                runtime.run(None, feeds[name])
                if run >= 2:
                    times[name].append(1000 * (time.perf_counter() - start))
        print("| model | ms | of the original | disagreement |\n| --- | --- | --- | --- |")
        base = statistics.median(times["original"])
        for name, runtime in runtimes.items():
            middle = statistics.median(times[name])
            print(f"| {name} | {middle:.1f} | {middle / base:.2f} | {disagreement(models[name], runtime, feeds[name], folder):.1e} |")


if __name__ == "__main__":
    main()
