"""Time of gptq on a decoder of the size of GPT-2: 12 layers of width 768, 128 sequences of 256 tokens.

    python benchmarks/gptq_speed.py [--runs N] [--sequences 128] [--length 256] [--quality fast|high] [make_decoder.py options]

Weights are random, so only times mean something; every product is as large as in the real model (85 M weights in blocks and a
head of 768 x 50257). Prints wall time, processor time and peak memory of the whole process, medians; needs numpy and onnx."""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ONNXFOLD = HERE.parent / "build/release/cli/onnxfold"


def timed(command):
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--vocab", type=int, default=50257)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/decoder.onnx"
        subprocess.run([sys.executable, HERE / "make_decoder.py", model, "--layers", "12", "--width", "768", "--ffn", "2048",
                        "--vocab", str(arguments.vocab), *rest], check=True)
        tokens = np.random.default_rng(0).integers(0, arguments.vocab, (arguments.sequences, arguments.length))
        np.savez(f"{folder}/tokens.npz", tokens=tokens)
        rows = [timed([ONNXFOLD, "compress", model, "-o", f"{folder}/out.onnx", "-q", "--force", "--no-check", "--calibration",
                       f"{folder}/tokens.npz", "--pass", f"gptq:bits=4,block=32,quality={arguments.quality}"])
                for _ in range(arguments.runs)]
    seconds, processor, peak = (statistics.median(column) for column in zip(*rows))
    print(f"gptq, quality {arguments.quality}, {arguments.sequences} x {arguments.length} tokens: {seconds:.1f} s, "
          f"{processor:.1f} s of processor time, {peak:.0f} MB")


if __name__ == "__main__":
    main()
