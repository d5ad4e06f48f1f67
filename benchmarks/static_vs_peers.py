"""Static int8 (QDQ) beside ONNX Runtime's quantize_static: the same model, the same data, what the runtime makes of both.

    python benchmarks/static_vs_peers.py ONNXFOLD [--timm resnet18,mobilenetv2_100,...] [--size 96]
        [--model NAME=MODEL.onnx,CALIBRATION.npz,DATA.npz]... [--seconds 1]

Networks of timm have random weights (seed 0) and normalizations whose statistics come from 32 random images, so that signals
keep their size; 8 other images calibrate, 4 others judge. quantize_static: its own preprocessing, QDQ, uint8 activations, int8
weights by channel, its default ranges (min-max). Columns: relative L2 error of the first output (unmasked positions where the
data has attention_mask); time as a multiple of float's (sessions in turn, one thread, median of the ratios of each round);
bytes as a share of float's; in the file that ONNX Runtime's optimizer writes: how many convolutions, products, sums and
multiplications, pools and joins work on integers, of how many (the file of float may have others: activations that are one node there). Needs onnx, onnxruntime and, for --timm, torch and timm.
"""

import argparse
import contextlib
import logging
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

# kind, operators on integers, operators in float
KINDS = [
    ("convolutions", {"QLinearConv", "ConvInteger"}, {"Conv", "FusedConv", "NhwcFusedConv"}),
    ("products", {"QLinearMatMul", "MatMulIntegerToFloat", "QGemm", "DynamicQuantizeMatMul"},
     {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}),
    ("sums", {"QLinearAdd", "QLinearMul"}, {"Add", "Mul", "Sum"}),
    ("pools", {"QLinearAveragePool", "QLinearGlobalAveragePool"}, {"AveragePool", "GlobalAveragePool", "ReduceMean"}),
    ("joins", {"QLinearConcat"}, {"Concat"}),
]

VARIANTS = [
    ("float", None),
    ("onnxfold qdq-int8", ["qdq-int8"]),
    ("onnxfold qdq-int8:between=float", ["qdq-int8:between=float"]),
    ("onnxfold equalize, qdq-int8, correct-bias", ["equalize", "qdq-int8", "correct-bias"]),
    ("ONNX Runtime quantize_static", "ort"),
]


class Reader(CalibrationDataReader):
    def __init__(self, feeds, names):
        count = len(next(iter(feeds.values())))
        self.rows = iter([{n: feeds[n][i : i + 1] for n in names} for i in range(count)])

    def get_next(self):
        return next(self.rows, None)


def export_timm(name, size, folder):
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    generator = torch.Generator().manual_seed(1)

    def images(n):
        return torch.randn(n, 3, size, size, generator=generator)

    with torch.no_grad():
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # the plain average
        model(images(32))
    model.eval()
    path = folder / f"{name}.onnx"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        torch.onnx.export(model, images(1), str(path), opset_version=17, input_names=["x"], output_names=["y"],
                          dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, dynamo=False)
    np.savez(folder / f"{name}.c.npz", x=images(8).numpy())
    np.savez(folder / f"{name}.d.npz", x=images(4).numpy())
    return name, path, folder / f"{name}.c.npz", folder / f"{name}.d.npz"


def session(path, optimized=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make(onnxfold, path, calibration, steps, out):
    if steps == "ort":
        prepared = out.with_suffix(".prepared.onnx")
        logging.disable(logging.WARNING)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            model = onnx.load(path)
            if model.opset_import[0].version < 13:  # its scales by channel need that
                model = onnx.version_converter.convert_version(model, 13)
                path = out.with_suffix(".raised.onnx")
                onnx.save(model, path)
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            names = [i.name for i in session(prepared).get_inputs()]
            quantize_static(str(prepared), str(out), Reader(dict(np.load(calibration)), names), QuantFormat.QDQ,
                            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        return
    command = [onnxfold, "compress", path, "-o", out, "-f", "-q", "--no-check", "--recipe", "clean", "--calibration", calibration]
    for step in steps:
        command += ["--pass", step]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-200:])


def counts(path):
    nodes = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    cells = []
    for _, integer, floating in KINDS:
        whole = sum(op in integer for op in nodes)
        both = whole + sum(op in floating for op in nodes)
        cells.append(f"{whole} of {both}" if both else "")
    return cells


def error(got, wanted, feeds):
    if "attention_mask" in feeds and wanted.ndim == 3:
        kept = feeds["attention_mask"].astype(bool)
        got, wanted = got[kept], wanted[kept]
    return 100 * np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def one_row(runner, feeds):
    names = [i.name for i in runner.get_inputs()]
    return {name: feeds[name][:1] for name in names}


def ratios(runners, feeds, seconds):
    times = {name: [] for name in runners}
    rows = {name: one_row(runner, feeds) for name, runner in runners.items()}
    for name, runner in runners.items():
        runner.run(None, rows[name])
    order = list(runners)
    end = time.perf_counter() + seconds * len(runners)
    while time.perf_counter() < end or len(times["float"]) < 5:
        for name in order:
            start = time.perf_counter()
            runners[name].run(None, rows[name])
            times[name].append(time.perf_counter() - start)
        order.append(order.pop(0))  # no one always follows the same one
    return 1e3 * statistics.median(times["float"]), {
        name: statistics.median(t / f for t, f in zip(times[name], times["float"])) for name in runners}


def compare(onnxfold, case, seconds, folder):
    title, path, calibration, data = case
    feeds = dict(np.load(data))
    runners, rows, wanted = {}, {}, None
    for number, (name, steps) in enumerate(VARIANTS):
        out, optimized = folder / f"{title}.{number}.onnx", folder / f"{title}.{number}.optimized.onnx"
        try:
            if steps is None:
                out = path
            else:
                make(onnxfold, path, calibration, steps, out)
            runner = session(out, optimized)
            got = runner.run(None, {i.name: feeds[i.name] for i in runner.get_inputs()})[0]
        except Exception as problem:  # a row that fails is a result
            print(f"| {title} | {name} | failed: {str(problem).splitlines()[-1][:100]} |", flush=True)
            continue
        wanted = got if steps is None else wanted
        rows[name] = (error(got, wanted, feeds), out.stat().st_size / path.stat().st_size, counts(optimized))
        runners[name] = runner
    base, times = ratios(runners, feeds, seconds)
    for name, (relative, share, cells) in rows.items():
        first = f"{base:.2f} ms" if name == "float" else f"{times[name]:.2f}"
        print(f"| {title} | {name} | {relative:.2f} % | {first} | {share:.2f} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnxfold")
    parser.add_argument("--timm", default="")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--model", action="append", default=[], help="NAME=MODEL,CALIBRATION,DATA")
    parser.add_argument("--seconds", type=float, default=1)
    given = parser.parse_args()
    print("| model | | output error | time | bytes | " + " | ".join(kind for kind, *_ in KINDS) + " |")
    print("| --- |" * 1 + " --- |" * (4 + len(KINDS)))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for text in given.model:
            title, _, files = text.partition("=")
            compare(given.onnxfold, (title, *map(pathlib.Path, files.split(","))), given.seconds, folder)
        for network in filter(None, given.timm.split(",")):
            compare(given.onnxfold, export_timm(network, given.size, folder), given.seconds, folder)


if __name__ == "__main__":
    main()
