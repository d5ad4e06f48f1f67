"""Latency in ONNX Runtime of every low-bit form that `compress` writes, beside the float model.

Sessions run in turn (one round runs each once), one thread; a row is the median of a form's rounds and its ratio to
float. Without --model: a feed-forward layer of 1024 and 4096 (1 row and 128 rows) and a small convolution net.

usage: quantize_latency.py ONNXFOLD [--model M.onnx --data D.npz] [--rounds 40]
"""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save

# name, passes, needs data, what it is for: products, convolutions
FORMS = [
    ("4 bits, level 4", ["rtn-search"], "p"),
    ("4 bits, level 0", ["rtn-search:accuracy-level=0"], "p"),
    ("4 bits, level 4, block 128", ["rtn-search:block=128"], "p"),
    ("4 bits, level 4, zero points", ["rtn-search:symmetric=false"], "p"),
    ("4 bits, level 4, float16 scales, block 16", ["rtn-search:scales=float16,block=16"], "p"),
    ("4 bits, level 4, int8 scales, block 16", ["rtn-search:scales=int8,block=16"], "p"),
    ("4 bits, standard form", ["rtn-search:form=dequantizelinear"], "p"),
    ("4 bits, float zero points", ["hqq:zero-points=float"], "p"),
    ("8 bits, level 4", ["rtn-search:bits=8"], "p"),
    ("8 bits, level 0", ["rtn-search:bits=8,accuracy-level=0"], "p"),
    ("8 bits, standard form", ["rtn-search:bits=8,form=dequantizelinear"], "p"),
    ("2 bits, level 4", ["rtn-search:bits=2"], "p"),
    ("2 bits, level 0", ["rtn-search:bits=2,accuracy-level=0"], "p"),
    ("4 bits and a low-rank pair of 16", ["rtn-search", "correct-low-rank:rank=16"], "p"),
    ("float16", ["convert-float16"], "pc"),
    ("float16 weights only", ["convert-float16:weights-only=true"], "pc"),
    ("8 bits behind DequantizeLinear (others=8)", ["rtn-search:others=8"], "c"),
    ("int8, dynamic", ["dynamic-int8"], "pc"),
    ("int8, static (QDQ)", ["qdq-int8"], "pc"),
]


def normal(*shape):
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def model(nodes, shape, weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def feed_forward(rows):
    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    return model(nodes, [rows, 1024], {"u": normal(1024, 4096), "v": normal(4096, 1024)}), {"x": normal(rows, 1024)}


def convolutions():
    nodes, weights, name = [], {}, "x"
    for i, (channels, out) in enumerate([(32, 64), (64, 64), (64, 128), (128, 128)]):
        weights[f"w{i}"], weights[f"b{i}"] = normal(out, channels, 3, 3), normal(out)
        nodes.append(helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        name = "y" if i == 3 else f"r{i}"
        nodes.append(helper.make_node("Relu", [f"c{i}"], [name]))
    return model(nodes, [1, 32, 28, 28], weights), {"x": normal(1, 32, 28, 28)}


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def table(onnxfold, title, source, feeds, kind, rounds, folder):
    np.savez(folder / "data.npz", **feeds)
    sessions, sizes = {"float": session(source)}, {"float": source.stat().st_size}
    for name, passes, kinds in FORMS:
        if kind not in kinds:
            continue
        out = folder / f"{len(sessions)}.onnx"
        command = [onnxfold, "compress", source, "-o", out, "-f", "-q", "--no-check", "--calibration", folder / "data.npz"]
        for step in passes:
            command += ["--pass", step]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{name}: {done.stderr.strip()[-200:]}")
            continue
        sessions[name], sizes[name] = session(out), out.stat().st_size
    times = {name: [] for name in sessions}
    for i in range(rounds + 3):
        for name, runner in sessions.items():
            start = time.perf_counter()
            runner.run(None, feeds)
            if i >= 3:
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["float"])
    print(f"\n{title}\n\n| form | ms | of float | file, MB |\n| --- | --- | --- | --- |")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {1e3 * middle:.3f} | {middle / base:.2f}x | {sizes[name] / 1e6:.2f} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("onnxfold")
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    print(f"ONNX Runtime {onnxruntime.__version__}, one thread, median of {given.rounds} rounds in turn")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if given.model:
            with np.load(given.data) as arrays:
                feeds = {key: array[:1] for key, array in arrays.items()}
            table(given.onnxfold, given.model, pathlib.Path(given.model), feeds, "p", given.rounds, folder)
            return
        cases = [("feed-forward layer 1024-4096-1024, 1 row", feed_forward(1), "p"),
                 ("feed-forward layer 1024-4096-1024, 128 rows", feed_forward(128), "p"),
                 ("4 convolutions 3x3, 28x28, 32 to 128 channels", convolutions(), "c")]
        for title, (proto, feeds), kind in cases:
            path = folder / "float.onnx"
            save(proto, path)
            table(given.onnxfold, title, path, feeds, kind, given.rounds, folder)


if __name__ == "__main__":
    main()
