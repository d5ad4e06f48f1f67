"""Latency in ONNX Runtime of every low-bit form that `compress` writes, as a multiple of the float model's.

    python benchmarks/quantize_latency.py ONNXFOLD [--minilm FOLDER] [--seconds 0.5] [--only TEXT]

Models: a feed-forward layer of 1024 and 4096 (1 row and 128 rows), four convolutions, samples/vit_a.onnx (1 and 32 images),
samples/bytelm.onnx (128 bytes) and, with FOLDER of export_minilm.py, MiniLM-L6 (1 sentence of 64 tokens). One thread. --only names
a part of the forms. Sessions run in turn (one round runs each once) for --seconds of each model and form; a cell is the median over rounds of a form's time
by the float model's in the same round. "slow" marks what `compress` warned of. Needs onnx and onnxruntime.
"""

import argparse
import dataclasses
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save

SAMPLES = pathlib.Path(__file__).resolve().parent.parent / "samples"

# name, passes, what it is for: products, convolutions
FORMS = [
    ("4 bits (level chosen)", ["rtn-search"], "p"),
    ("4 bits, level 4", ["rtn-search:accuracy-level=4"], "p"),
    ("4 bits, level 0", ["rtn-search:accuracy-level=0"], "p"),
    ("4 bits, block 128", ["rtn-search:block=128"], "p"),
    ("4 bits, zero points", ["rtn-search:symmetric=false"], "p"),
    ("4 bits, float16 scales, block 16", ["rtn-search:scales=float16,block=16"], "p"),
    ("4 bits, int8 scales, block 16", ["rtn-search:scales=int8,block=16"], "p"),
    ("4 bits, standard form", ["rtn-search:form=dequantizelinear"], "p"),
    ("4 bits, float zero points", ["hqq:zero-points=float"], "p"),
    ("8 bits", ["rtn-search:bits=8"], "p"),
    ("8 bits, level 0", ["rtn-search:bits=8,accuracy-level=0"], "p"),
    ("8 bits, standard form", ["rtn-search:bits=8,form=dequantizelinear"], "p"),
    ("2 bits", ["rtn-search:bits=2"], "p"),
    ("2 bits, level 0", ["rtn-search:bits=2,accuracy-level=0"], "p"),
    ("4 bits and a low-rank pair of 16", ["rtn-search", "correct-low-rank:rank=16"], "p"),
    ("float16", ["convert-float16"], "pc"),
    ("float16 weights only", ["convert-float16:weights-only=true"], "pc"),
    ("8 bits behind DequantizeLinear (others=8)", ["rtn-search:others=8"], "c"),
    ("int8, dynamic", ["dynamic-int8"], "pc"),
    ("int8, static (QDQ)", ["qdq-int8"], "pc"),
    ("blocks of powers of two, constants only (BCT)", ["bct:activation-bits=0"], "p"),
    ("everything in blocks and tables (BCT)", ["bct"], "p"),
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


def made(onnxfold, case, passes, folder, number):
    """Path of the compressed model and whether the program warned that it is slow; None and why where it failed."""
    out = folder / f"{number}.onnx"
    command = [onnxfold, "compress", case.path, "-o", out, "-f", "-v", "--no-check", "--calibration", case.calibration]
    for step in passes:
        command += ["--pass", step]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr.strip()[-200:]
    return out, "slow with ONNX Runtime" in done.stdout + done.stderr


@dataclasses.dataclass
class Case:
    title: str
    kind: str  # p: products, c: convolutions
    path: pathlib.Path
    feeds: dict
    calibration: pathlib.Path


def own(title, kind, proto, feeds, folder):
    path = folder / f"{title.replace(' ', '_')}.onnx"
    save(proto, path)
    np.savez(path.with_suffix(".npz"), **feeds)
    return Case(title, kind, path, feeds, path.with_suffix(".npz"))


def sample(title, path, data, calibration, rows):
    names = {i.name for i in onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()}
    with np.load(data) as arrays:
        feeds = {key: array[:rows] for key, array in arrays.items() if key in names}
    return Case(title, "p", path, feeds, calibration)


def cases(folder, minilm):
    yield own("layer, 1 row", "p", *feed_forward(1), folder)
    yield own("layer, 128 rows", "p", *feed_forward(128), folder)
    yield own("convolutions", "c", *convolutions(), folder)
    digits, train = SAMPLES / "digits_test.npz", SAMPLES / "digits_train_500.npz"
    yield sample("vit_a, 1 image", SAMPLES / "vit_a.onnx", digits, train, 1)
    yield sample("vit_a, 32 images", SAMPLES / "vit_a.onnx", digits, train, 32)
    yield sample("bytelm, 128 bytes", SAMPLES / "bytelm.onnx", SAMPLES / "kjv_valid.npz", SAMPLES / "kjv_calib.npz", 1)
    if minilm:
        text = minilm / "text.npz"
        few = folder / "text.npz"
        with np.load(text) as arrays:
            np.savez(few, **{key: array[-8:] for key, array in arrays.items()})
        yield sample("MiniLM-L6, 64 tokens", minilm / "minilm.onnx", text, few, 1)


def measure(onnxfold, case, seconds, folder, only):
    """Float's milliseconds, and for every form its ratio to float, bytes by float's and the warning."""
    sessions, sizes, slow = {"float": session(case.path)}, {}, set()
    for name, passes, kinds in FORMS:
        if case.kind not in kinds or only not in name:
            continue
        out, said = made(onnxfold, case, passes, folder, len(sessions))
        if out is None:
            print(f"{case.title}, {name}: {said}")
            continue
        sessions[name], sizes[name] = session(out), out.stat().st_size / case.path.stat().st_size
        if said:
            slow.add(name)
    times = {name: [] for name in sessions}
    for name, runner in sessions.items():
        for _ in range(2):
            runner.run(None, case.feeds)
    end = time.perf_counter() + seconds * len(sessions)
    while time.perf_counter() < end or len(times["float"]) < 5:
        for name, runner in sessions.items():
            start = time.perf_counter()
            runner.run(None, case.feeds)
            times[name].append(time.perf_counter() - start)
    ratios = {name: statistics.median(t / f for t, f in zip(times[name], times["float"])) for name in sizes}
    return 1e3 * statistics.median(times["float"]), ratios, sizes, slow


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnxfold")
    parser.add_argument("--minilm", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        columns = {case.title: measure(given.onnxfold, case, given.seconds, folder, given.only)
                   for case in cases(folder, given.minilm)}
    print(f"ONNX Runtime {onnxruntime.__version__}, one thread. Time as a multiple of float's (bytes as a share of float's)\n")
    print("| form | " + " | ".join(columns) + " | warned |")
    print("| --- |" + " --- |" * (len(columns) + 1))
    print("| float, ms | " + " | ".join(f"{base:.2f}" for base, *_ in columns.values()) + " | |")
    for form, *_ in FORMS:
        cells = [f"{ratios[form]:.2f} ({sizes[form]:.2f})" if form in ratios else ""
                 for _, ratios, sizes, _ in columns.values()]
        warned = "slow" if any(form in slow for *_, slow in columns.values()) else ""
        print(f"| {form} | " + " | ".join(cells) + f" | {warned} |")


if __name__ == "__main__":
    main()
