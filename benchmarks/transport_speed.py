"""Exact transport and Sinkhorn (lambda 0.08) between two sets of neurons: onnxfold's solvers beside POT's.

    cmake --preset release -DONNXFOLD_BENCHMARKS=ON && cmake --build --preset release --target transport_speed
    python benchmarks/transport_speed.py [--sizes 384,1536,4096]

Costs are distances of standardised features, a permuted set with noise; both solve the same matrix and print the same cost.
Needs numpy and POT."""

import argparse
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import ot

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "build/release/benchmarks/transport_speed"


def costs(size):
    random = np.random.default_rng(size)
    first = random.standard_normal((size, 200))
    second = 0.6 * first[random.permutation(size)] + random.standard_normal((size, 200))
    standard = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (first, second)]
    matrix = ot.dist(*standard, metric="euclidean")
    return matrix / matrix.max()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="384,1536,4096")
    print("neurons solver     onnxfold wall, CPU     POT wall, CPU      costs")
    for size in map(int, parser.parse_args().sizes.split(",")):
        matrix, uniform = costs(size), np.full(size, 1 / size)
        for solver in ("sinkhorn", "exact"):
            with tempfile.NamedTemporaryFile() as file:
                matrix.tofile(file.name)
                out = subprocess.run([PROGRAM, str(size), solver, file.name], capture_output=True, text=True, check=True)
            wall, cpu, cost = map(float, out.stdout.split())
            start, work = time.perf_counter(), time.process_time()
            plan = ot.emd(uniform, uniform, matrix) if solver == "exact" else ot.sinkhorn(uniform, uniform, matrix, 0.08)
            theirs = (time.perf_counter() - start, time.process_time() - work)
            print(f"{size:7} {solver:10} {wall:8.3f} s {cpu:8.3f} s  {theirs[0]:8.3f} s {theirs[1]:8.3f} s  "
                  f"{cost:.6f} {(plan * matrix).sum():.6f}", flush=True)


if __name__ == "__main__":
    main()
