#!/usr/bin/env python3
"""Layers tied in every way that tie-layers has: file size, error of the outputs and the metric of the task, one-shot.

  benchmarks/tie_table.py MODEL.onnx --calibration C.npz --data D.npz [--loops 2 3 4] [--ranks 0 8 16 32] [--quick]
  benchmarks/tie_table.py MODEL.onnx --calibration C.npz --data D.npz --equal-bytes

The second form compares the families at equal bytes of weights: tied, tied and in 4 bits, whitened low rank, low rank in
4 bits, 4 bits, 3 bits, blocks dropped. Prints Markdown rows as they come.
"""
import argparse
import os
import subprocess
import sys
import tempfile

BINARY = os.environ.get("ONNXFOLD", "build/release/cli/onnxfold")
# Name, options, learns from the calibration data.
WAYS = [
    ("least squares, whitened, alternating", "", True),
    ("least squares, whitened once", "factors=whitened", True),
    ("average, whitened", "start=average,factors=whitened", True),
    ("lower, whitened", "start=lower,factors=whitened", True),
    ("stepwise, whitened", "start=stepwise,factors=whitened", True),
    ("average, SVD (the paper's)", "start=average,factors=svd", False),
    ("lower, SVD", "start=lower,factors=svd", False),
    ("stepwise, SVD", "start=stepwise,factors=svd", False),
]


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
        return os.path.getsize(out), done.stdout


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
    print(f"| {label} | {outcome:,} | {error} | {task} |", flush=True)


def table(args):
    print("| loops, rank, how | file bytes | output error | metric |\n| --- | --- | --- | --- |")
    for loops in args.loops:
        for rank in args.ranks:
            ways = [WAYS[0], WAYS[5]] if args.quick else WAYS
            for name, options, calibrate in ways:
                spec = f"tie-layers:loops={loops},rank={rank}" + (f",{options}" if options else "")
                outcome, stdout = compress(args, ["remove-dead-nodes", spec], calibrate)
                show(f"{loops}, {rank}, {name}", outcome, stdout)
            if loops == 2 and rank > 0 and not args.quick:
                outcome, stdout = compress(args, [f"tie-layers:loops=2,rank={rank},factors=closed"], False)
                show(f"2, {rank}, closed form, weights only", outcome, stdout)


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
    parser.add_argument("--quick", action="store_true", help="only the default and the paper's way")
    parser.add_argument("--equal-bytes", action="store_true")
    args = parser.parse_args()
    (equal_bytes if args.equal_bytes else table)(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
