#!/usr/bin/env python3
"""Layers tied in every way that tie-layers has: file size, errors of weights and outputs, and the metric, one-shot.

  benchmarks/tie_table.py MODEL.onnx --calibration C.npz --data D.npz --cells CELLS.jsonl [--loops 2 3 4]
      [--ranks 0 8 16 32 break-even] [--refit-ranks 0 8 16] [--minutes 60]
  benchmarks/tie_table.py MODEL.onnx --cells CELLS.jsonl --render

Every cell is written to CELLS.jsonl when it is done; a second run goes on where the first one stopped, and stops by itself
after --minutes. --render only prints what is there, as Markdown. `break-even` gives every weight the highest rank that still
saves bytes. Errors are relative and of all tied weights together: `weights` of their numbers, `layers` of what they make of
the inputs that the original model has on D (data that no way has seen), `outputs` of the outputs of the model.
Needs an interpreter with onnx, numpy and onnxruntime (one thread is used).
"""

import collections
import functools
import pathlib
import tempfile
import time

import numpy as np
import onnx
from onnx import numpy_helper

from cells import Cells, Judge, batches, compress, session_of, table_arguments

# start, factors, learns from the calibration data
PLAIN = [("average", "svd", False), ("lower", "svd", False), ("stepwise", "svd", False), ("weighted", "svd", True)]
WHITENED = [(start, "whitened", True) for start, _, _ in PLAIN]
STRICT = [("average", "svd", False), ("lower", "svd", False), ("stepwise", "svd", False), ("weighted", "whitened", True)]


def better(loops):
    """What goes beyond one SVD: the closed form of two loops, alternations of more; without and with data."""
    split = "closed" if loops == 2 else "alternate"
    return [("average", split, False), ("weighted", split, True)]


def products(model):
    """{output of a product: (its input, its weight [in, out], the name of that)}"""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            weight = weight.T
        found[node.output[0]] = (node.input[0], weight, node.input[1])
    return found


def second_moments(path, names, data):
    """X'X of values on data, by name."""
    model = onnx.load(path)
    for name in names:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = session_of(model.SerializeToString())
    moments = {name: 0 for name in names}
    for feeds in batches(session, data):
        for name, value in zip(names, session.run(list(names), feeds)):
            rows = value.reshape(-1, value.shape[-1]).astype(np.float64)
            moments[name] = moments[name] + rows.T @ rows
    return moments


class Errors:
    """Relative errors of the products of a tied model against the original's."""

    def __init__(self, base, data):
        self.old = products(onnx.load(base))
        names = sorted({name for name, _, _ in self.old.values()})
        self.moments = second_moments(base, names, data)

    def of(self, tied):
        """(of the weights, of what they make of the original's inputs), over all weights that are shared now."""
        new = products(tied)
        corrected = {output: output for output in self.old}  # output of a product or of its bias: that of the product
        for node in tied.graph.node:
            if node.op_type == "Add":
                corrected.update({node.output[0]: name for name in node.input if name in self.old})
        readers = collections.Counter(name for _, _, name in new.values())
        now = {output: new[output][1] for output in self.old if output in new and readers[new[output][2]] > 1}
        tensors = {tensor.name: tensor for tensor in tied.graph.initializer}
        for name in tensors:
            place = name.removesuffix("_lora_A")
            if place == name or corrected.get(place) not in now:
                continue
            a, b = (numpy_helper.to_array(tensors[place + end]).astype(np.float64) for end in ("_lora_A", "_lora_B"))
            now[corrected[place]] = now[corrected[place]] + a @ b
        sums = np.zeros(4)
        for output, weight in now.items():
            name, before, _ = self.old[output]
            rest, moment = weight - before, self.moments[name]
            sums += [np.sum(rest**2), np.sum(before**2), np.sum(rest * (moment @ rest)),
                     np.sum(before * (moment @ before))]
        return float((sums[0] / sums[1]) ** 0.5), float((sums[2] / sums[3]) ** 0.5)


@functools.cache
def break_even(base, loops, folder):
    """The `ranks` option that gives every role the highest rank that saves bytes."""
    report = compress(base, folder / "o.onnx", [f"tie-layers:loops={loops},rank=1000000,start=average,factors=svd"])
    rules = {}
    for remark in report["remarks"]:
        words = remark["reason"].split()
        if "saves nothing" in remark["reason"]:
            rules[words[3]] = int(words[words.index("from") + 1]) - 1
    return ";".join(f"{role}={rank}" for role, rank in sorted(rules.items()))


def wanted(args):
    """(loops, rank, start, factors, learns) of every cell; the dear ones last."""
    for loops in args.loops:
        for rank in args.ranks:
            for way in STRICT if rank == "0" else PLAIN + WHITENED + better(loops):
                if not args.ways or f"{way[0]},{way[1]}" in args.ways:
                    yield (loops, rank, *way)
    for loops in args.loops:
        for rank in args.refit_ranks:
            yield (loops, rank, "auto", "auto", True)


def measure(args, cell, base, errors, judge, folder):
    loops, rank, start, factors, learns = cell
    size = f"ranks={break_even(base, loops, folder)}" if rank == "break-even" else f"rank={rank}"
    out = folder / "tied.onnx"
    report = compress(base, out, [f"tie-layers:loops={loops},{size},start={start},factors={factors}"], None,
                      args.calibration if learns else None)
    if "error" in report:
        return report
    weights, layers = errors.of(onnx.load(out))
    return {"file": out.stat().st_size, "weights": weights, "layers": layers, "seconds": report["wall"], **judge.of(out)}


def key_of(model, cell):
    return f"{model.stem} " + " ".join(map(str, cell[:4]))


def run(args, cells):
    until = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        base = folder / "base.onnx"
        compress(args.model, base, [], recipe="clean")
        errors, judge = Errors(base, args.data), Judge(base, args.data)
        for cell in wanted(args):
            if time.monotonic() > until:
                print("out of time; the same command goes on")
                return
            cells.measured(key_of(args.model, cell), lambda c=cell: measure(args, c, base, errors, judge, folder))


NAMES = {("auto", "auto"): "default: best start, solved anew"}


def name_of(start, factors):
    return NAMES.get((start, factors), f"{start}, {factors}")


def metric(row, kind):
    return f"{100 * row['metric']:.1f}" if kind == "accuracy" else f"{row['metric']:.3f}"


def render(args, cells):
    everything = list(wanted(args))
    for loops in args.loops:
        ways = list(dict.fromkeys(cell[2:] for cell in everything if cell[0] == loops))
        ranks = list(dict.fromkeys(cell[1] for cell in everything if cell[0] == loops))
        print(f"\n| {loops} loops | " + " | ".join(f"rank {rank}" for rank in ranks) + " |\n|" + " --- |" * (len(ranks) + 1))
        files = {}
        for start, factors, learns in ways:
            line = []
            for rank in ranks:
                row = cells.rows.get(key_of(args.model, (loops, rank, start, factors)))
                if row is None or "error" in row:
                    line.append("")
                    continue
                files.setdefault(rank, set()).add(row["file"])
                errors = ", ".join(f"{row[kind]:.3f}" for kind in ("weights", "layers", "outputs"))
                line.append(f"{metric(row, row['kind'])} ({errors})")
            if any(line):
                print(f"| {name_of(start, factors)}{', data' if learns else ''} | " + " | ".join(line) + " |")
        sizes = []
        for rank in ranks:
            low, high = (min(files[rank]), max(files[rank])) if rank in files else (0, 0)
            sizes.append("" if high == 0 else f"{low / 1e6:.2f}" + (f" to {high / 1e6:.2f}" if high - low > 5e3 else ""))
        print("| file, MB | " + " | ".join(sizes) + " |")
    print()
    for text, wins, pairs in claims(args, cells):
        print(f"{text}: {wins} of {pairs} cells.")


def claims(args, cells):
    """(claim, cells where it holds, cells)"""
    def row(loops, rank, start, factors):
        return cells.rows.get(key_of(args.model, (loops, rank, start, factors)), {})

    def count(column, pairs):
        both = [(row(*a).get(column), row(*b).get(column)) for a, b in pairs]
        both = [(a, b) for a, b in both if a is not None and b is not None]
        return sum(a <= b * (1 + 1e-6) for a, b in both), len(both)

    places = [(loops, rank) for loops in args.loops for rank in args.ranks if rank != "0"]
    better_pairs = [((*place, "average", "closed" if place[0] == 2 else "alternate"), (*place, "average", "svd"))
                    for place in places]
    white_pairs = [((*place, start, "whitened"), (*place, start, "svd")) for place in places for start, _, _ in WHITENED]
    yield ("The better fit without data has no more error of the weights than average and SVD",
           *count("weights", better_pairs))
    yield ("Whitened has no more error of the layers' outputs on held-out data than SVD with the same start",
           *count("layers", white_pairs))
    yield ("And no more error of the outputs of the model", *count("outputs", white_pairs))


def main():
    parser = table_arguments(__doc__)
    parser.add_argument("--loops", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--ranks", nargs="+", default=["0", "8", "16", "32", "break-even"])
    parser.add_argument("--refit-ranks", nargs="*", default=["0", "8", "16"])
    parser.add_argument("--ways", nargs="*", help="only these, as START,FACTORS (average,svd)")
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    cells = Cells(args.cells)
    if not args.render:
        run(args, cells)
    render(args, cells)


if __name__ == "__main__":
    main()
