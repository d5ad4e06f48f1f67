"""ONNX Runtime makes integer kernels of everything that qdq-int8 puts between convolutions, and computes what
`onnxfold run` computes, but for single steps of a code.

usage: static_int8_test.py ONNXFOLD
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, load, numpy_helper, save

CODES = {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool",
         "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QGemm", "MaxPool", "NhwcMaxPool", "Transpose",
         "Reshape", "Flatten", "Slice", "Gather", "Resize", "Split", "Squeeze", "Unsqueeze", "Expand", "DepthToSpace",
         "QuantizeLinear", "DequantizeLinear"}


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def network():
    nodes, weights, count = [], {}, [0]

    def add(op, inputs, outputs=1, **attributes):
        names = []
        for _ in range(outputs):
            count[0] += 1
            names.append(f"v{count[0]}")
        nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def hold(array):
        count[0] += 1
        weights[f"w{count[0]}"] = np.asarray(array)
        return f"w{count[0]}"

    def conv(x, inputs, outputs, kernel=3, **attributes):
        w = hold(normal(outputs, inputs // attributes.get("group", 1), kernel, kernel) / kernel / inputs**0.5)
        return add("Conv", [x, w, hold(normal(outputs) / 10)], pads=[kernel // 2] * 4, **attributes)

    zero, six = hold(np.float32(0)), hold(np.float32(1.5))
    x = add("Relu", [conv("x", 3, 16)])
    x = add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    depthwise = add("Clip", [conv(x, 16, 16, group=16), zero, six])
    x = add("Relu", [add("Add", [x, conv(depthwise, 16, 16, 1)])])
    y = conv(x, 16, 16)
    y = add("Mul", [y, add("Sigmoid", [y])])
    # HardSwish as PaddlePaddle writes it, with a factor and an addend behind; HardSwish and HardSigmoid as operators.
    y = conv(y, 16, 16)
    three, bound = hold(np.float32(3)), hold(np.float32(6))
    y = add("Div", [add("Mul", [y, add("Clip", [add("Add", [y, three]), zero, bound])]), bound])
    y = add("Add", [add("Mul", [y, hold(np.float32(0.7))]), hold(np.float32(-0.4))])
    y = add("HardSwish", [conv(y, 16, 16)])
    y = add("Mul", [y, add("HardSigmoid", [conv(add("GlobalAveragePool", [y]), 16, 16, 1)])])
    y = conv(y, 16, 16)
    gate = add("Sigmoid", [conv(add("GlobalAveragePool", [y]), 16, 16, 1)])
    y = add("Mul", [y, gate])
    x = add("Concat", [x, add("LeakyRelu", [conv(y, 16, 16)])], axis=1)
    x = add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    a, b = add("Split", [conv(x, 32, 32, 1)], outputs=2, axis=1, num_outputs=2)
    x = add("Add", [a, add("Mul", [b, hold(np.float32(0.5))])])
    x = add("Resize", [x, "", hold(np.array([1, 1, 2, 2], np.float32))], mode="nearest")
    x = conv(x, 16, 8)
    x = add("DepthToSpace", [x], blocksize=2)
    x = add("Flatten", [add("GlobalAveragePool", [conv(x, 2, 16)])])
    nodes.append(helper.make_node("Gemm", [x, hold(normal(16, 10)), hold(normal(10))], ["y"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def main():
    onnxfold = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source, target, data, given = (folder / f for f in ("in.onnx", "out.onnx", "x.npz", "y.npz"))
        save(network(), source)
        x = normal(8, 3, 16, 16)
        np.savez(data, x=x)
        subprocess.run([onnxfold, "compress", source, "-o", target, "-q", "--no-check", "--pass", "qdq-int8",
                        "--calibration", data], check=True)
        subprocess.run([onnxfold, "run", target, "--data", data, "-o", given, "-q"], check=True)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        options.log_severity_level = 4
        providers = ["CPUExecutionProvider"]
        got = onnxruntime.InferenceSession(str(target), options, providers=providers).run(None, {"x": x})[0]
        wanted = onnxruntime.InferenceSession(str(source), providers=providers).run(None, {"x": x})[0]
        ours = np.load(given)["y"]
        left = [node.op_type for node in load(folder / "optimized.onnx").graph.node]
    floats = sorted(set(left) - CODES)
    assert not floats, f"left in float: {floats}"
    # Codes enter at x and leave at y.
    assert left.count("QuantizeLinear") == 1 and left.count("DequantizeLinear") == 0, left
    for what, result, limit in (("the model before", wanted, 0.05), ("onnxfold run", ours, 0.02)):
        error = np.linalg.norm(got - result) / np.linalg.norm(result)
        assert error < limit, f"{error:.4f} from {what}"


if __name__ == "__main__":
    main()
