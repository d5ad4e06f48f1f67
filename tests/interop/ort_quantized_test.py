"""`onnxfold run` computes what ONNX Runtime's own quantizers and its optimizer write: DynamicQuantizeLSTM, products of
dynamically rounded inputs, element-wise operators on codes.

usage: ort_quantized_test.py ONNXFOLD
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import static_int8_test
from onnx import TensorProto, helper, load, numpy_helper, save
from onnxruntime.quantization import QuantType, quantize_dynamic


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def recurrent(direction):
    """An LSTM with initial states and lengths, and products behind it."""
    n = 2 if direction == "bidirectional" else 1
    weights = {"w": normal(n, 64, 12) / 3, "r": normal(n, 64, 16) / 4, "b": normal(n, 128) / 4, "h": normal(n, 3, 16) / 2,
               "c": normal(n, 3, 16), "m": normal(16, 24), "shape": np.array([0, -1, 16], np.int64)}
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "b", "lengths", "h", "c"], ["y", "y_h", "y_c"], hidden_size=16,
                              direction=direction),
             helper.make_node("MatMul", ["y_h", "m"], ["z"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, 3, 12]),
                     helper.make_tensor_value_info("lengths", TensorProto.INT32, [3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "y_h", "y_c", "z")],
        [numpy_helper.from_array(a, k) for k, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(path, optimized=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = str(optimized)
        # Without the layouts of this machine's kernels, whose operators are no one's to store.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(onnxfold, folder, path, feeds, limit, wanted_operators):
    operators = {node.op_type for node in load(path).graph.node}
    missing = [op for op in wanted_operators if op not in operators]
    problems = [f"the file has no {op}: {sorted(operators)}" for op in missing]
    np.savez(folder / "x.npz", **feeds)
    done = subprocess.run([onnxfold, "run", path, "--data", folder / "x.npz", "-o", folder / "y.npz", "-q", "-f"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        return problems + [done.stderr.strip()]
    ours = np.load(folder / "y.npz")
    runner = session(path)
    for info, got in zip(runner.get_outputs(), runner.run(None, feeds)):
        error = np.linalg.norm(ours[info.name] - got) / np.linalg.norm(got)
        if not error < limit:
            problems.append(f"{path.name}, {info.name}: {error:.2e} from ONNX Runtime")
    return problems


def main():
    onnxfold = sys.argv[1]
    problems = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for direction in ("forward", "reverse", "bidirectional"):
            for kind in (QuantType.QInt8, QuantType.QUInt8):
                for channels in (False, True):
                    source, target = folder / "in.onnx", folder / f"{direction}_{kind}_{channels}.onnx"
                    save(recurrent(direction), source)
                    quantize_dynamic(str(source), str(target), weight_type=kind, per_channel=channels,
                                     extra_options={"MatMulConstBOnly": True})
                    feeds = {"x": normal(7, 3, 12), "lengths": np.array([7, 7, 7], np.int32)}
                    problems += compare(onnxfold, folder, target, feeds, 2e-3, ["DynamicQuantizeLSTM"])
        session(target, folder / "optimized_dynamic.onnx")
        problems += compare(onnxfold, folder, folder / "optimized_dynamic.onnx", feeds, 2e-3,
                            ["DynamicQuantizeLSTM", "DynamicQuantizeMatMul"])
        # What the optimizer makes of qdq-int8.
        save(static_int8_test.network(), folder / "in.onnx")
        x = normal(8, 3, 16, 16)
        np.savez(folder / "c.npz", x=x)
        subprocess.run([onnxfold, "compress", folder / "in.onnx", "-o", folder / "static.onnx", "-q", "--no-check", "--pass",
                        "qdq-int8", "--calibration", folder / "c.npz"], check=True)
        session(folder / "static.onnx", folder / "optimized_static.onnx")
        problems += compare(onnxfold, folder, folder / "optimized_static.onnx", {"x": x}, 0.02,
                            ["QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu",
                             "QLinearGlobalAveragePool", "QGemm"])
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
