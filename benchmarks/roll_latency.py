"""Load time and latency in ONNX Runtime of decoders with their layers rolled into one Scan or Loop, beside unrolled.

    python benchmarks/roll_latency.py [--layers 12,24,48] [--width 256] [--lengths 1,64] [--runs 15] [--quick] [MODEL.onnx...]

Needs an interpreter with scripts/requirements-bench.txt, and build/release/cli/onnxfold. Makes LLaMA-shaped decoders with
random weights (make_decoder.py), each with weights of its own in every layer and with all layers tied, and takes models
that are given (random token ids and floats as inputs). The sessions take turns, one run each, in one process with one thread;
medians, with their ratio to the unrolled model's."""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime

import make_decoder

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"
LOADS = 5


def tie(path, target):
    """The same decoder with the first layer's weights in every layer."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name.startswith("layer"):
                node.input[i] = "layer0." + name.split(".", 1)[1]
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    target.write_bytes(model.SerializeToString())


def rolled(model, folder):
    """{name: path}; what cannot be rolled is left out."""
    out = {"unrolled": folder / "unrolled.onnx", "Scan": folder / "scan.onnx", "Loop": folder / "loop.onnx"}
    passes = {"unrolled": "remove-dead-nodes", "Scan": "roll-layers:form=scan", "Loop": "roll-layers:form=loop"}
    for name, path in out.items():
        subprocess.run([ONNXFOLD, "compress", model, "-o", path, "-q", "-f", "--no-check", "--inline", "--pass", passes[name]],
                       check=True)
    return {name: path for name, path in out.items() if name == "unrolled" or is_rolled(path)}


def is_rolled(path):
    return any(node.op_type in ("Loop", "Scan") for node in onnx.load(path).graph.node)


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def load_times(paths):
    samples = {name: [] for name in paths}
    for _ in range(LOADS):
        for name, path in paths.items():
            start = time.perf_counter()
            open_session(path)
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in samples.items()}


def feeds_for(session, length):
    rng = np.random.default_rng(0)
    feeds = {}
    for given in session.get_inputs():
        sizes = [1] + [length] * (len(given.shape) - 1)
        shape = [size if isinstance(size, int) else sizes[i] for i, size in enumerate(given.shape)]
        if "int64" in given.type:
            feeds[given.name] = np.ones(shape, np.int64) if "mask" in given.name else rng.integers(1, 20, shape)
        else:
            feeds[given.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def latencies(sessions, feeds, runs):
    samples = {name: [] for name in sessions}
    results = {}
    for turn in range(runs + 2):
        for name, session in sessions.items():
            start = time.perf_counter()
            results[name] = session.run(None, feeds)[0]
            if turn >= 2:
                samples[name].append(time.perf_counter() - start)
    base = results["unrolled"]
    off = {name: float(np.max(np.abs(result - base)) / np.max(np.abs(base))) for name, result in results.items()}
    return {name: statistics.median(times) for name, times in samples.items()}, off


def report(title, model, arguments, folder):
    paths = rolled(model, folder)
    loads = load_times(paths)
    sessions = {name: open_session(path) for name, path in paths.items()}
    print(f"\n{title}")
    for length in arguments.lengths:
        times, off = latencies(sessions, feeds_for(sessions["unrolled"], length), arguments.runs)
        for name, path in paths.items():
            nodes = len(onnx.load(path).graph.node)
            print(f"  {name:9} {nodes:5} nodes {path.stat().st_size / 1e6:8.1f} MB  "
                  f"load {loads[name] * 1e3:7.1f} ms ({loads[name] / loads['unrolled']:.2f}x)  "
                  f"length {length:4}: {times[name] * 1e3:8.2f} ms ({times[name] / times['unrolled']:.2f}x)  off {off[name]:.1e}")


def numbers(text):
    return [int(part) for part in text.split(",") if part]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    parser.add_argument("--layers", type=numbers, default=[12, 24, 48])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lengths", type=numbers, default=[1, 64])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="12 layers, 5 runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.layers, arguments.runs = [12], 5
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for layers in arguments.layers:
            model = folder / f"decoder{layers}.onnx"
            make_decoder.build(model, layers, arguments.width, 11 * arguments.width // 4 // 32 * 32, 512, heads=8)
            report(f"{layers} layers", model, arguments, folder)
            tie(model, folder / f"tied{layers}.onnx")
            report(f"{layers} layers, tied", folder / f"tied{layers}.onnx", arguments, folder)
        for model in arguments.models:
            report(model.name, model, arguments, folder)


if __name__ == "__main__":
    main()
