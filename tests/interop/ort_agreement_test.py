"""ONNX Runtime and `onnxfold run` agree to 1e-5 relative on every low-bit form that `compress` writes, and what should
be fast there is fused: nothing but the low-bit operators is left when ONNX Runtime has loaded the file.

usage: ort_agreement_test.py ONNXFOLD
"""

import itertools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, load, numpy_helper, save

LIMIT = 1e-5


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def model(nodes, inputs, weights, outputs):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def products(rows, columns):
    """Every spelling of a product with one weight, and a ragged last block for most block sizes."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "a"], ["m"]),
        node("Gemm", ["x", "b", "c"], ["g"], transB=1),
        node("Gemm", ["x", "a2"], ["h"]),
    ]
    weights = {"a": normal(rows, columns), "b": normal(columns, rows), "c": normal(columns), "a2": normal(rows, columns) / 2}
    return model(nodes, [("x", TensorProto.FLOAT, [3, rows])], weights, ["m", "g", "h"]), {"x": normal(3, rows)}


def tables(entries, width):
    """An embedding and the head that is tied to it through a Transpose."""
    nodes = [
        helper.make_node("Gather", ["t", "i"], ["e"]),
        helper.make_node("Transpose", ["t"], ["u"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "u"], ["y"]),
    ]
    ids = np.array([[0, 1, entries - 1], [2, 0, 1]], np.int64)
    return model(nodes, [("i", TensorProto.INT64, [2, 3])], {"t": normal(entries, width)}, ["e", "y"]), {"i": ids}


def others():
    """Weights that no fast operator takes: convolutions, recurrent layers, experts, a left operand."""
    node = helper.make_node
    nodes = [
        node("Conv", ["i", "k"], ["c"]),
        node("ConvTranspose", ["i", "t"], ["d"]),
        node("LSTM", ["s", "lw", "lr"], ["", "l"], hidden_size=16),
        node("GRU", ["s", "gw", "gr"], ["", "g"], hidden_size=16),
        node("MatMul", ["e", "x"], ["b"]),
        node("MatMul", ["w", "v"], ["o"]),
    ]
    weights = {"k": normal(8, 48, 3, 3), "t": normal(48, 8, 3, 3), "lw": normal(1, 64, 32), "lr": normal(1, 64, 16),
               "gw": normal(1, 48, 32), "gr": normal(1, 48, 16), "x": normal(4, 64, 24), "w": normal(10, 64)}
    shapes = {"i": (1, 48, 6, 6), "s": (5, 2, 32), "e": (4, 3, 64), "v": (64, 3)}
    inputs = [(name, TensorProto.FLOAT, list(shape)) for name, shape in shapes.items()]
    feeds = {name: normal(*shape) for name, shape in shapes.items()}
    return model(nodes, inputs, weights, ["c", "d", "l", "g", "b", "o"]), feeds


CASES = {
    "products 96x40": products(96, 40),
    "products 100x70": products(100, 70),
    "products 259x33": products(259, 33),
    "products 259x36": products(259, 36),
    "tables 36x160": tables(36, 160),
    "tables 50x64": tables(50, 64),
    "tables 33x160": tables(33, 160),
    "others": others(),
}
FORMS = ("matmulnbits", "dequantizelinear")


def combinations():
    """(case, pass, options) of every test."""
    for case, form, bits, symmetric, block in itertools.product(
        [name for name in CASES if name != "others" and "36" not in name], FORMS, (4, 8), ("true", "false"), (16, 32, 128)
    ):
        yield case, "rtn", f"form={form},bits={bits},symmetric={symmetric},block={block}"
    few = ("products 259x36", "tables 36x160")  # 2 bits need columns in fours, see weight_target.h
    for case, form, scales, symmetric in itertools.product(few, FORMS, ("float16", "int8", "power-of-two"), ("true", "false")):
        yield case, "rtn-search", f"form={form},scales={scales},symmetric={symmetric},block=16"
    for case, form, bits, symmetric in itertools.product(few, FORMS, (2, 3, 4, 8), ("true", "false")):
        yield case, "rtn-search", f"form={form},bits={bits},symmetric={symmetric},block=channel,scales=float16"
    for case, form, bits in itertools.product(few, FORMS, (2, 3)):
        yield case, "hqq", f"form={form},bits={bits},block=32"
    yield "products 100x70", "hqq", "bits=4,zero-points=float,block=32"
    for others, block, scales in (("8", "32", "float32"), ("bits", "16", "int8"), ("8", "channel", "float16")):
        yield "others", "rtn", f"others={others},block={block},scales={scales}"


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


ALLOWED = {"MatMulNBits", "GatherBlockQuantized", "Add", "Gather", "Transpose", "MatMul", "DequantizeLinear", "Gemm"}


def disagreement(onnxfold, folder, case, method, options):
    proto, feeds = CASES[case]
    save(proto, folder / "float.onnx")
    np.savez(folder / "data.npz", **feeds)
    run([onnxfold, "compress", folder / "float.onnx", "-o", folder / "low.onnx", "-f", "-q", "--no-check",
         "--pass", f"{method}:min-elements=0,accuracy-level=0,{options}"])
    run([onnxfold, "run", folder / "low.onnx", "--data", folder / "data.npz", "-o", folder / "ours.npz", "-f", "-q"])
    exact = onnxruntime.SessionOptions()
    # ONNX Runtime fuses DequantizeLinear and MatMul and would round the activations to int8 there by default.
    exact.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    exact.optimized_model_filepath = str(folder / "fused.onnx")
    exact.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "low.onnx"), exact, providers=["CPUExecutionProvider"])
    theirs = session.run(None, feeds)
    ours = np.load(folder / "ours.npz")
    worst = 0.0
    for output, wanted in zip(session.get_outputs(), theirs):
        worst = max(worst, float(np.abs(ours[output.name] - wanted).max() / np.abs(wanted).max()))
    return worst, unfused(folder / "fused.onnx", case, options)


def unfused(path, case, options):
    """Operators that ONNX Runtime should have folded or fused away."""
    left = {node.op_type for node in load(path, load_external_data=False).graph.node}
    if case == "others":
        return set()
    if case.startswith("products") and "form=dequantizelinear" in options and "bits=3" not in options:
        return left - {"MatMulNBits", "Add"}
    return left - ALLOWED if "form=matmulnbits" not in options else left - {"MatMulNBits", "GatherBlockQuantized", "Add"}


def main():
    onnxfold = pathlib.Path(sys.argv[1])
    failures = checked = 0
    with tempfile.TemporaryDirectory() as name:
        for case, method, options in combinations():
            worst, left = disagreement(onnxfold, pathlib.Path(name), case, method, options)
            checked += 1
            if not worst <= LIMIT or left:
                failures += 1
                print(f"{case}, {method} {options}: relative difference {worst:.3g} {sorted(left)}")
    print(f"{checked - failures} of {checked} combinations agree to {LIMIT}")
    return 1 if failures or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
