"""Models of pass bct give the same numbers, to the bit, in ONNX Runtime (with and without its optimizations), in
`onnxfold run` and in `onnxfold run --integers`; nothing but shapes is computed with floats there. Where sums pass 2^24
steps, `run --integers` says in which node; roundings of float32 may differ then, but here only where nothing rounds behind.

usage: bct_agreement_test.py ONNXFOLD
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save

WIDTH, HEADS, LENGTH, BATCH = 32, 2, 6, 3


class Graph:
    """Nodes and weights under construction."""

    def __init__(self, seed):
        self.nodes, self.weights, self.random, self.count = [], {}, np.random.default_rng(seed), 0

    def add(self, op, *inputs, **attributes):
        self.count += 1
        name = f"v{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, values):
        self.count += 1
        name = f"c{self.count}"
        self.weights[name] = np.asarray(values)
        return name

    def weight(self, *shape):
        return self.constant((self.random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32))

    def number(self, value):
        return self.constant(np.array(value, np.float32))

    def linear(self, x, inputs, outputs, gemm=False):
        if gemm:
            return self.add("Gemm", x, self.weight(outputs, inputs), self.weight(outputs), transB=1)
        return self.add("Add", self.add("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def layer_norm(self, x, fused):
        gain, bias = self.constant(1 + 0.1 * self.random.standard_normal(WIDTH).astype(np.float32)), self.weight(WIDTH)
        if fused:
            return self.add("LayerNormalization", x, gain, bias, axis=-1, epsilon=1e-5)
        centred = self.add("Sub", x, self.add("ReduceMean", x, axes=[-1]))
        variance = self.add("ReduceMean", self.add("Pow", centred, self.number(2)), axes=[-1])
        normal = self.add("Div", centred, self.add("Sqrt", self.add("Add", variance, self.number(1e-5))))
        return self.add("Add", self.add("Mul", normal, gain), bias)

    def rms_norm(self, x):
        square = self.add("ReduceMean", self.add("Mul", x, x), axes=[-1])
        root = self.add("Sqrt", self.add("Add", square, self.number(1e-6)))
        return self.add("Mul", self.add("Div", x, root), self.weight(WIDTH))

    def heads(self, x):
        shape = self.constant(np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
        return self.add("Transpose", self.add("Reshape", x, shape), perm=[0, 2, 1, 3])

    def attention(self, x, mask=None):
        q, k, v = (self.heads(self.linear(x, WIDTH, WIDTH)) for _ in range(3))
        scores = self.add("MatMul", q, self.add("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.add("Div", scores, self.number(np.sqrt(WIDTH // HEADS)))
        scores = self.add("Add", scores, mask) if mask else scores
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        shape = self.constant(np.array([0, 0, WIDTH], np.int64))
        mixed = self.add("Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), shape)
        return self.linear(mixed, WIDTH, WIDTH)

    def gelu(self, x):
        erf = self.add("Erf", self.add("Div", x, self.number(np.sqrt(2))))
        return self.add("Mul", self.add("Mul", x, self.add("Add", erf, self.number(1))), self.number(0.5))

    def silu(self, x):
        return self.add("Mul", x, self.add("Sigmoid", x))

    def model(self, inputs, output, opset):
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(a, n) for n, a in self.weights.items()])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def post_norm_encoder():
    """As BERT: token and position tables, a mask from integers, norms after the sums, chains for norm and GELU."""
    g = Graph(1)
    mask = g.add("Unsqueeze", g.add("Cast", "mask", to=1), g.constant(np.array([1, 2], np.int64)))
    mask = g.add("Mul", g.add("Sub", g.number(1), mask), g.number(np.finfo(np.float32).min))
    x = g.add("Add", g.add("Gather", g.weight(50, WIDTH), "ids"), g.weight(1, LENGTH, WIDTH))
    x = g.layer_norm(x, fused=False)
    for _ in range(2):
        x = g.layer_norm(g.add("Add", x, g.attention(x, mask)), fused=False)
        hidden = g.gelu(g.linear(x, WIDTH, 64))
        x = g.layer_norm(g.add("Add", x, g.linear(hidden, 64, WIDTH)), fused=False)
    inputs = [("ids", TensorProto.INT64, ["b", LENGTH]), ("mask", TensorProto.INT64, ["b", LENGTH])]
    ids = g.random.integers(0, 50, (BATCH, LENGTH))
    mask_values = (np.arange(LENGTH)[None] < np.array([[LENGTH], [4], [1]])).astype(np.int64)
    return g.model(inputs, x, 17), {"ids": ids, "mask": mask_values}


def decoder():
    """As GPT and Llama: a constant causal mask, RMSNorm, a gated SiLU layer, a head tied to the table."""
    g = Graph(2)
    table = g.weight(50, WIDTH)
    mask = g.constant(np.triu(np.full((LENGTH, LENGTH), -np.inf, np.float32), 1)[None, None])
    x = g.add("Gather", table, "ids")
    for _ in range(2):
        x = g.add("Add", x, g.attention(g.rms_norm(x), mask))
        n = g.rms_norm(x)
        gated = g.add("Mul", g.silu(g.linear(n, WIDTH, 64)), g.linear(n, WIDTH, 64))
        x = g.add("Add", x, g.linear(gated, 64, WIDTH))
    logits = g.add("MatMul", g.rms_norm(x), g.add("Transpose", table, perm=[1, 0]))
    ids = g.random.integers(0, 50, (BATCH, LENGTH))
    return g.model([("ids", TensorProto.INT64, ["b", LENGTH])], logits, 17), {"ids": ids}


def vision():
    """As ViT: patches by a convolution, norms in front, fused LayerNormalization and Gelu of opset 20, a Gemm head."""
    g = Graph(3)
    patches = g.add("Conv", "image", g.weight(WIDTH, 3, 4, 4), g.weight(WIDTH), strides=[4, 4])
    x = g.add("Reshape", patches, g.constant(np.array([0, WIDTH, -1], np.int64)))
    x = g.add("Add", g.add("Transpose", x, perm=[0, 2, 1]), g.weight(1, 4, WIDTH))
    for _ in range(2):
        x = g.add("Add", x, g.attention(g.layer_norm(x, fused=True)))
        hidden = g.add("Gelu", g.linear(g.layer_norm(x, fused=True), WIDTH, 64))
        x = g.add("Add", x, g.linear(hidden, 64, WIDTH))
    first = g.add("Gather", g.layer_norm(x, fused=True), g.constant(np.array(0, np.int64)), axis=1)
    image = g.random.standard_normal((BATCH, 3, 8, 8)).astype(np.float32)
    return g.model([("image", TensorProto.FLOAT, ["b", 3, 8, 8])], g.linear(first, WIDTH, 10, gemm=True), 20), {"image": image}


def wide():
    """A product of 7,000 positive numbers of about the same size: with 6 bits its sums end just below 2^24 steps, with 8
    beyond."""
    g = Graph(4)
    x = g.add("MatMul", "x", g.constant(g.random.uniform(0.5, 1, (7000, 8)).astype(np.float32)))
    feeds = {"x": g.random.uniform(0.5, 1, (BATCH, 7000)).astype(np.float32)}
    return g.model([("x", TensorProto.FLOAT, ["b", 7000])], g.add("Relu", x), 17), feeds


CASES = {"post-norm encoder": post_norm_encoder, "decoder": decoder, "vision": vision, "wide": wide}
OPTIONS = ("block=32", "weight-bits=4,embedding-bits=4,block=1024,activation-block=16",
           "activation-bits=6,function-bits=5,softmax-bits=8,probability-bits=8,norm-bits=10,block=16")


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def ort(path, feeds, optimized):
    options = onnxruntime.SessionOptions()
    # ONNX Runtime fuses DequantizeLinear and MatMul and would round the activations anew there by default.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def problems(onnxfold, folder, case, options):
    proto, feeds = CASES[case]()
    save(proto, folder / "float.onnx")
    np.savez(folder / "data.npz", **feeds)
    data = ["--data", folder / "data.npz"]
    steps = [part for name in ("fold-attention-scale", f"bct:{options}") for part in ("--pass", name)]
    run([onnxfold, "compress", folder / "float.onnx", "-o", folder / "low.onnx", "-f", "-q", "--no-check", *steps,
         "--calibration", folder / "data.npz"])
    run([onnxfold, "run", folder / "low.onnx", *data, "-o", folder / "ours.npz", "-f", "-q"])
    said = run([onnxfold, "run", folder / "low.onnx", *data, "-o", folder / "integers.npz", "-f", "--integers"])
    ours, integers = np.load(folder / "ours.npz")["y"], np.load(folder / "integers.npz")["y"]
    found = [line for line in said.splitlines() if line.startswith("on floats")]
    beyond = case == "wide" and [line for line in said.splitlines() if line.startswith("beyond 2^24 steps")]
    if case == "wide" and options.startswith("block=32") != bool(beyond):
        found.append(f"sums beyond 2^24: {beyond}")
    if case == "wide" and options.startswith("activation-bits=6"):
        largest = int(said.split("largest sum ")[1].split()[0])
        if not 0.9 * 2**24 < largest < 2**24:
            found.append(f"the sums are not near the limit: {largest}")
    for name, other in (("integers", integers), ("optimized ONNX Runtime", ort(folder / "low.onnx", feeds, True)),
                        ("plain ONNX Runtime", ort(folder / "low.onnx", feeds, False))):
        same = np.allclose(ours, other, 1e-6, 0) if beyond else (ours == other).all()
        if ours.shape != other.shape or not np.isfinite(ours).all() or not same:
            found.append(f"{name}: {np.abs(ours - other).max()} of {np.abs(ours).max()} in {(ours != other).mean():.1%}")
    exact = ort(folder / "float.onnx", feeds, True)
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    if options.startswith("block=32") and error > 0.1:
        found.append(f"relative error {error:.3f}")
    return found


def main():
    onnxfold = pathlib.Path(sys.argv[1])
    failures = checked = 0
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            for options in OPTIONS:
                checked += 1
                for problem in problems(onnxfold, pathlib.Path(name), case, options):
                    failures += 1
                    print(f"{case}, {options}: {problem}")
    print(f"{checked} models, {failures} problems")
    return 1 if failures or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
