#!/usr/bin/env python3
"""Layers tied in every way that tie-layers has: file size, errors of weights and outputs, and the metric, one-shot.

  benchmarks/tie_table.py MODEL.onnx --calibration C.npz --data D.npz [--loops 2 3 4] [--ranks 0 8 16 32] [--quick]
  benchmarks/tie_table.py MODEL.onnx --calibration C.npz --data D.npz --equal-bytes

The second form compares the families at equal bytes of weights: tied, tied and in 4 bits, whitened low rank, low rank in
4 bits, 4 bits, 3 bits, blocks dropped. Prints Markdown rows as they come. Needs an interpreter with onnx and numpy.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import numpy_helper

BINARY = os.environ.get("ONNXFOLD", "build/release/cli/onnxfold")
# Name, options, learns from the calibration data.
WAYS = [
    ("the default with data", "", True),
    ("least squares, alternating", "start=weighted", True),
    ("least squares, whitened once", "start=weighted,factors=whitened", True),
    ("average, whitened", "start=average,factors=whitened", True),
    ("lower, whitened", "start=lower,factors=whitened", True),
    ("stepwise, whitened", "start=stepwise,factors=whitened", True),
    ("average, SVD (the paper's)", "start=average,factors=svd", False),
    ("lower, SVD", "start=lower,factors=svd", False),
    ("stepwise, SVD", "start=stepwise,factors=svd", False),
    ("better fit, no data", "factors=", False),  # closed for two loops, alternate for more
]
QUICK = ("the default with data", "least squares, alternating", "average, SVD (the paper's)")


def products(path):
    """{name of the product: (weight [in, out], output)}"""
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found, factors = {}, {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            weight = weight.T
        if "_lora_" in node.input[1]:
            factors[node.input[1]] = weight
        else:
            found[node.name] = (weight, node.output[0])
    return found, factors


def weight_error(before, after):
    """Relative error of all weights that a tied model still has at their old places."""
    old, (new, factors) = products(before)[0], products(after)
    # A bias is added between a product and its correction; names say which bias.
    error = energy = 0.0
    adds = {node.input[i]: node.output[0] for node in onnx.load(after).graph.node if node.op_type == "Add" for i in (0, 1)}
    for name, (weight, output) in old.items():
        if name not in new or new[name][0].shape != weight.shape:
            continue
        now = new[name][0]
        for prefix in (output, adds.get(output, "")):
            if prefix + "_lora_A" in factors:
                now = now + factors[prefix + "_lora_A"] @ factors[prefix + "_lora_B"]
                break
        error += float(np.sum((weight - now) ** 2))
        energy += float(np.sum(weight**2))
    return (error / energy) ** 0.5 if energy else 0.0


def compress(args, passes, calibrate, recipe=None):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "o.onnx")
        command = [BINARY, "compress", args.model, "-o", out, "--data", args.data, "--controls", "no", "--max-kl", "1000000"]
        command += ["--recipe", recipe] if recipe else []
        for one in passes:
            command += ["--pass", one]
        command += ["--calibration", args.calibration] if calibrate else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not os.path.exists(out):
            return None, done.stderr.strip()
        weights = "" if recipe else f"{weight_error(args.model, out):.3f}"
        return (os.path.getsize(out), weights), done.stdout


def line_of(stdout, word):
    for row in stdout.splitlines():
        if word in row:
            return row.strip()
    return ""


def show(label, outcome, stdout):
    if outcome is None:
        print(f"| {label} | {stdout.splitlines()[-1] if stdout else 'failed'} | | |", flush=True)
        return
    error = line_of(stdout, "rel. error").split("rel. error")[-1].split(",")[0].strip()
    task = ""
    for word in ("bits per byte", "accuracy", "perplexity"):
        row = line_of(stdout, word + " ")
        if row and "->" in row:
            task = row.split("->")[-1].strip().split()[0]
    size, weights = outcome
    middle = f" {weights} |" if weights else ""
    print(f"| {label} | {size:,} |{middle} {error} | {task} |", flush=True)


def table(args):
    print("| loops, rank, how | file bytes | weight error | output error | metric |\n| --- | --- | --- | --- | --- |")
    for loops in args.loops:
        for rank in args.ranks:
            for name, options, calibrate in WAYS:
                if (args.quick and name not in QUICK) or (rank == 0 and ("fit" in name or "alternating" in name)):
                    continue
                if args.skip_default and not options:
                    continue
                if options == "factors=":
                    options += "closed" if loops == 2 else "alternate"
                spec = f"tie-layers:loops={loops},rank={rank}" + (f",{options}" if options else "")
                outcome, stdout = compress(args, ["remove-dead-nodes", spec], calibrate)
                show(f"{loops}, {rank}, {name}", outcome, stdout)


def equal_bytes(args):
    print("| what | file bytes | output error | metric |\n| --- | --- | --- | --- |")
    four, three = "rtn-search:bits=4,block=32", "rtn-search:bits=3,block=32"
    rows = [
        ("as it is", ["remove-dead-nodes"], False),
        ("2 loops, ratio 0.63", ["tie-layers:loops=2,ratio=0.63"], True),
        ("low rank, ratio 0.63", ["low-rank:ratio=0.63"], True),
        ("a third of the blocks dropped", ["drop-blocks:ratio=0.33"], True),
        ("2 loops, ratio 0.63, 4 bits", ["tie-layers:loops=2,ratio=0.63", four], True),
        ("low rank, ratio 0.63, 4 bits", ["low-rank:ratio=0.63", four], True),
        ("4 bits", [four], False),
        ("3 bits", [three], False),
        ("2 loops, ratio 0.8, 4 bits", ["tie-layers:loops=2,ratio=0.8", four], True),
        ("low rank, ratio 0.8, 4 bits", ["low-rank:ratio=0.8", four], True),
        ("a quarter of the blocks dropped, 4 bits", ["drop-blocks:ratio=0.25", four], True),
    ]
    for name, passes, calibrate in rows:
        outcome, stdout = compress(args, passes, calibrate, recipe="clean")
        show(name, outcome, stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--loops", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 8, 16, 32])
    parser.add_argument("--quick", action="store_true", help="only the default, least squares and the paper's way")
    parser.add_argument("--skip-default", action="store_true", help="leave out the default, which takes longest")
    parser.add_argument("--equal-bytes", action="store_true")
    args = parser.parse_args()
    (equal_bytes if args.equal_bytes else table)(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
