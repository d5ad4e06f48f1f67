"""ONNX Runtime latency of models with parallel branches: as exported, after onnxsim, after onnxslim, after onnxfold.

    python benchmarks/reparam.py [--runs N] [--threads 2] [--batch 2] [--image 96] [--executor 500] MODEL.onnx...

Needs an interpreter with scripts/requirements-bench.txt, and build/release/cli/onnxfold. benchmarks/export_branches.py
makes models; a file NAME.timm.onnx beside NAME.onnx is measured as well. The sessions take turns, one run each, in one process;
the medians are printed with their ratio to onnxfold's, the nodes, and the largest difference from the original's
outputs as a share of their range. With --executor N also the seconds that onnxfold's own executor takes for N images
with the original and the merged model (`onnxfold run`, whole processes in turns, the least of five)."""

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


def executor_seconds(paths, session, folder, arguments):
    """{variant: seconds} of the reference executor, original and onnxfold's; empty unless asked for."""
    if not arguments.executor or "onnxfold" not in paths:
        return {}
    images = argparse.Namespace(batch=arguments.executor, image=arguments.image)
    np.savez(folder / "images.npz", **feeds_of(session, images))
    seconds = collections.defaultdict(list)
    for _ in range(5):
        for name in ("original", "onnxfold"):
            command = [ONNXFOLD, "run", paths[name], "--data", folder / "images.npz", "-o", folder / "out.npz", "-q",
                       "--threads", arguments.threads, "--force"]
            start = time.perf_counter()
            subprocess.run([str(part) for part in command], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    return {name: min(each) for name, each in seconds.items()}


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
        executor = executor_seconds(paths, sessions["original"], pathlib.Path(folder), arguments)
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
    if executor:
        print(f"executor, {arguments.executor} images: {executor['original']:.3f} s before, {executor['onnxfold']:.3f} s after "
              f"({executor['original'] / executor['onnxfold']:.2f}x)")


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
    parser.add_argument("--executor", type=int, default=0, metavar="N")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    for model in arguments.models:
        measure(model, arguments)


if __name__ == "__main__":
    main()
