"""Clean-up of models: onnxfold beside onnxsim, onnxslim and ONNX Runtime's own optimizer, whole processes in one run.

    python benchmarks/cleanup_speed.py [--runs N] MODEL.onnx...

Needs an interpreter with scripts/requirements-bench.txt, and build/release/cli/onnxfold. Besides the models given it uses
one of about 700 nodes that it makes: 26 exported-style MLP blocks whose shapes are computed by shape arithmetic."""

import argparse
import pathlib
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from measure import alternate, print_table

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"
ORT = """
import sys, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
options.optimized_model_filepath = sys.argv[2]
ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def make_700_nodes(path, blocks=26, width=64):
    """LayerNorm spelled out, Linear, GELU by Erf, and a reshape through Shape arithmetic, as exporters write them."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    counter = [0]

    def const(array):
        name = f"c{counter[0]}"
        counter[0] += 1
        weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(op, *inputs, **attributes):
        name = f"v{counter[0]}"
        counter[0] += 1
        nodes.append(helper.make_node(op, list(inputs), [name], name=f"/{op}_{counter[0]}", **attributes))
        return name

    x = "x"
    for _ in range(blocks):
        mean = node("ReduceMean", x, axes=[-1])
        centred = node("Sub", x, mean)
        variance = node("ReduceMean", node("Pow", centred, const(np.float32(2))), axes=[-1])
        scale = node("Sqrt", node("Add", variance, const(np.float32(1e-5))))
        h = node("Mul", node("Div", centred, scale), const(np.ones(width, np.float32)))
        h = node("Add", h, const(np.zeros(width, np.float32)))
        h = node("MatMul", h, const(rng.normal(0, 0.1, (width, 4 * width)).astype(np.float32)))
        h = node("Add", h, const(rng.normal(0, 0.1, 4 * width).astype(np.float32)))
        erf = node("Erf", node("Div", h, const(np.float32(2**0.5))))
        h = node("Mul", node("Mul", h, node("Add", erf, const(np.float32(1)))), const(np.float32(0.5)))
        h = node("MatMul", h, const(rng.normal(0, 0.1, (4 * width, width)).astype(np.float32)))
        batch = node("Gather", node("Shape", h), const(np.int64(0)), axis=0)
        length = node("Gather", node("Shape", h), const(np.int64(1)), axis=0)
        axis0 = const(np.array([0], np.int64))
        shape = node("Concat", node("Unsqueeze", batch, axis0), node("Unsqueeze", length, axis0),
                     const(np.array([width], np.int64)), axis=0)
        h = node("Identity", node("Reshape", h, shape))
        x = node("Add", x, h)
    graph = helper.make_graph(
        nodes, "blocks", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", width])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", "T", width])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return len(nodes)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/blocks.onnx"
        count = make_700_nodes(made)
        for model in [made, *arguments.models]:
            out = {tool: f"{folder}/{tool}.onnx" for tool in ("onnxfold", "onnxfold-nocheck", "onnxsim", "onnxslim", "ort")}
            fold = [str(ONNXFOLD), "compress", model, "--recipe", "clean", "--force", "-q", "-o"]
            results = alternate({
                "onnxfold, not checked": [*fold, out["onnxfold-nocheck"], "--no-check"],
                "onnxfold, proved": [*fold, out["onnxfold"]],
                "onnxsim": [sys.executable, "-m", "onnxsim", model, out["onnxsim"]],
                "onnxslim": [sys.executable, "-m", "onnxslim", model, out["onnxslim"]],
                "ONNX Runtime, basic": [sys.executable, "-c", ORT, model, out["ort"]],
            }, arguments.runs)
            counts = {tool: len(onnx.load(path, load_external_data=False).graph.node)
                      for tool, path in out.items() if pathlib.Path(path).exists()}
            print_table(f"{pathlib.Path(model).name} ({count if model == made else len(onnx.load(model).graph.node)} nodes)",
                        results, "onnxfold, not checked")
            print("nodes left:", ", ".join(f"{tool} {number}" for tool, number in counts.items()))
            for path in out.values():
                pathlib.Path(path).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
