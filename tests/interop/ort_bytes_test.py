"""Codes, scales and zero points of `onnxfold compress --pass rtn` equal those of ONNX Runtime's own quantizer.

usage: ort_bytes_test.py ONNXFOLD
"""

import itertools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

SHAPES = [(96, 40), (100, 70), (259, 33), (512, 64), (31, 130), (33, 40)]


def weight(rows, columns, seed):
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    values[:, 0] = 0.0  # a column without range
    values[:, 1] = np.abs(values[:, 1])
    values[: rows // 2, 2] = -0.25  # ties of magnitude and of rounding
    values[rows // 2 :, 2] = 0.25
    values[:, 3] = np.round(values[:, 3] * 4) / 8
    return values


def model_with(values):
    rows, columns = values.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(values, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensors(model):
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    names = list(node.input[1:4]) + [""]
    return [held.get(name) for name in names[:3]]


def reference(values, bits, block, symmetric):
    """What MatMulNBitsQuantizer's default method calls; reached directly, its module needs one more package."""
    rows, columns = values.shape
    blocks = (rows + block - 1) // block
    codes = np.zeros((columns, blocks, block * bits // 8), np.uint8)
    scales = np.zeros((columns, blocks), np.float32)
    zero_points = np.zeros((columns, (blocks * bits + 7) // 8), np.uint8)
    quantize = quantize_matmul_4bits if bits == 4 else quantize_matmul_8bits
    quantize(codes, values, scales, zero_points, block, columns, rows, symmetric)
    return [codes, scales, None if symmetric else zero_points]


def ours(program, folder, model, bits, block, symmetric):
    source, target = folder / "in.onnx", folder / "out.onnx"
    onnx.save(model, source)
    options = f"rtn:bits={bits},block={block},symmetric={str(symmetric).lower()},min-elements=0"
    command = [program, "compress", source, "-o", target, "--pass", options, "--force", "-q", "--no-check"]
    subprocess.run(command, check=True)
    return tensors(onnx.load(target))


def main():
    program, failures, count = sys.argv[1], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed, (shape, bits, block, symmetric) in enumerate(
            itertools.product(SHAPES, (4, 8), (16, 32, 64, 128, 256), (True, False))
        ):
            if shape[0] * 2 < block:
                continue  # padding makes it larger than the float weight; onnxfold leaves it alone
            values = weight(*shape, seed)
            model = model_with(values)
            expected = reference(values, bits, block, symmetric)
            got = ours(program, pathlib.Path(folder), model, bits, block, symmetric)
            count += 1
            for what, a, b in zip(("codes", "scales", "zero points"), expected, got):
                if (a is None) != (b is None) or (a is not None and a.tobytes() != b.tobytes()):
                    failures += 1
                    detail = "" if a is None or b is None else f" {np.sum(a.ravel() != b.ravel())} of {a.size} differ"
                    print(f"{shape} bits={bits} block={block} symmetric={symmetric}: {what}{detail}")
    print(f"{count} cases, {failures} differences")
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main())
