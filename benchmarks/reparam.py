"""ONNX Runtime latency of models with parallel branches: as exported, after onnxsim, after onnxslim, after onnxfold.

    python benchmarks/reparam.py [--runs N] [--threads 2] [--batch 2] [--image 96] MODEL.onnx...

Needs an interpreter with scripts/requirements-bench.txt, and build/release/cli/onnxfold. benchmarks/export_branches.py
makes models; a file NAME.timm.onnx beside NAME.onnx is measured as well. The sessions take turns, one run each, in one process;
the medians are printed with their ratio to onnxfold's, the nodes, and the largest difference from the original's
outputs as a share of their range."""

import argparse
import collections
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"


def variants(model, folder):
    """{name: path} of what each tool makes of the model; a tool that fails is left out."""
    out = {tool: folder / f"{tool}.onnx" for tool in ("onnxsim", "onnxslim", "onnxfold")}
    commands = {
        "onnxsim": [sys.executable, "-m", "onnxsim", model, out["onnxsim"]],
        "onnxslim": [sys.executable, "-m", "onnxslim", model, out["onnxslim"]],
        "onnxfold": [ONNXFOLD, "compress", model, "--recipe", "reparam", "-q", "-f", "-o", out["onnxfold"]],
    }
    made = {"original": model}
    for tool, command in commands.items():
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode == 0:
            made[tool] = out[tool]
        else:
            print(f"{tool} failed: {done.stderr.strip()[-300:]}")
    merged = model.with_suffix(".timm.onnx")
    if merged.exists():
        made["timm's own merge"] = merged
    return made


def feeds_of(session, arguments):
    """Random images; symbolic dimensions are the batch, or the image where they come third or later."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else arguments.batch if i == 0 else 3 if i == 1 else arguments.image
                 for i, d in enumerate(value.shape)]
        if value.type != "tensor(float)":
            sys.exit(f"input '{value.name}' is {value.type}; this benchmark is for image models")
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def measure(model, arguments):
    with tempfile.TemporaryDirectory() as folder:
        paths = variants(model, pathlib.Path(folder))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        options.log_severity_level = 3
        sessions = {name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                    for name, path in paths.items()}
        counts = {name: collections.Counter(node.op_type for node in onnx.load(path).graph.node)
                  for name, path in paths.items()}
    feeds = feeds_of(sessions["original"], arguments)
    samples = collections.defaultdict(list)
    outputs = {}
    for i in range(arguments.runs + 5):
        for name, session in sessions.items():
            start = time.perf_counter()
            outputs[name] = session.run(None, feeds)
            if i >= 5:
                samples[name].append(1000 * (time.perf_counter() - start))
    print_rows(model, counts, {name: statistics.median(rows) for name, rows in samples.items()}, outputs)


def print_rows(model, counts, medians, outputs):
    print(f"\n{model.name}\n{'':20}{'nodes':>7}{'Conv':>6}{'BN':>5}{'ms':>9}{'ratio':>8}{'difference':>12}")
    base = medians.get("onnxfold")
    for name, milliseconds in medians.items():
        error = max(np.abs(a - b).max() / max(np.ptp(a), 1e-30) for a, b in zip(outputs["original"], outputs[name]))
        ratio = "" if base is None else f"{milliseconds / base:.2f}x"
        print(f"{name:20}{counts[name].total():>7}{counts[name]['Conv']:>6}{counts[name]['BatchNormalization']:>5}"
              f"{milliseconds:>9.2f}{ratio:>8}{error:>12.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--image", type=int, default=96)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    for model in arguments.models:
        measure(model, arguments)


if __name__ == "__main__":
    main()
