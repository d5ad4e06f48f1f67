"""ONNX Runtime and `onnxfold run` agree to 1e-5 relative on every low-bit form that `compress` writes.

usage: ort_agreement_test.py ONNXFOLD
"""

import itertools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save

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


CASES = {
    "products 96x40": products(96, 40),
    "products 100x70": products(100, 70),
    "products 259x33": products(259, 33),
    "tables 50x64": tables(50, 64),
    "tables 33x160": tables(33, 160),
}


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def disagreement(onnxfold, folder, case, options):
    proto, feeds = CASES[case]
    save(proto, folder / "float.onnx")
    np.savez(folder / "data.npz", **feeds)
    run([onnxfold, "compress", folder / "float.onnx", "-o", folder / "low.onnx", "-f", "-q", "--no-check",
         "--pass", f"rtn:min-elements=0,accuracy-level=0,{options}"])
    run([onnxfold, "run", folder / "low.onnx", "--data", folder / "data.npz", "-o", folder / "ours.npz", "-f", "-q"])
    exact = onnxruntime.SessionOptions()
    # ONNX Runtime fuses DequantizeLinear and MatMul and would round the activations to int8 there by default.
    exact.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    session = onnxruntime.InferenceSession(str(folder / "low.onnx"), exact, providers=["CPUExecutionProvider"])
    theirs = session.run(None, feeds)
    ours = np.load(folder / "ours.npz")
    worst = 0.0
    for output, wanted in zip(session.get_outputs(), theirs):
        worst = max(worst, float(np.abs(ours[output.name] - wanted).max() / np.abs(wanted).max()))
    return worst


def main():
    onnxfold = pathlib.Path(sys.argv[1])
    failures = checked = 0
    forms = itertools.product(CASES, ("matmulnbits", "dequantizelinear"), (4, 8), ("true", "false"), (16, 32, 128))
    with tempfile.TemporaryDirectory() as name:
        for case, form, bits, symmetric, block in forms:
            options = f"form={form},bits={bits},symmetric={symmetric},block={block}"
            worst = disagreement(onnxfold, pathlib.Path(name), case, options)
            checked += 1
            if not worst <= LIMIT:
                failures += 1
                print(f"{case}, {options}: relative difference {worst:.3g}")
    print(f"{checked - failures} of {checked} combinations agree to {LIMIT}")
    return 1 if failures or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
