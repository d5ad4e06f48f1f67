#!/usr/bin/env python3
"""What the same bytes buy: layers tied, low rank, blocks dropped, low bits, and these in 4 bits, at equal sizes of the file.

  benchmarks/equal_bytes.py MODEL.onnx --calibration C.npz --data D.npz --cells CELLS.jsonl [--blocks 4 6] [--no-refit]
  benchmarks/equal_bytes.py MODEL.onnx --cells CELLS.jsonl --render

Sizes are those of the model with --blocks blocks dropped, of the same in 4 bits, and of the model in 4 bits. For each of them
every family gets the largest setting whose file is not larger. Cells are written to CELLS.jsonl as they are done, and a second
run goes on where the first stopped; --render prints Markdown. Everything that can learn from data does, but for the quantizer
(rtn-search, blocks of 32). --no-refit leaves the slowest step of tying out (sweeps=0, and says so); --quick does that, gives
all ranks of tying and low rank the same share of the bytes, and learns from --calibration-samples. Needs numpy and onnxruntime.
"""

import pathlib
import tempfile

from cells import Cells, Judge, compress, table_arguments

FOUR, THREE, TWO = (f"rtn-search:bits={bits},block=32" for bits in (4, 3, 2))


def tied(ratio, sweeps, spread):
    return [f"tie-layers:loops=2,ratio={ratio:.4f},sweeps={sweeps},spread={spread}"]


def low_rank(ratio, spread):
    return [f"low-rank:ratio={ratio:.4f},spread={spread}"]


def size_of(args, base, folder, passes):
    """Bytes without data: ranks are spread otherwise, but the budget is the same."""
    out = folder / "size.onnx"
    passes = [one.replace("spread=error", "spread=uniform") for one in passes]
    passes = [one + ",at-once=0" if one.startswith("tie-layers") else one for one in passes]
    report = compress(base, out, passes, dry_run=True)
    return report["target"]["bytes"] if "error" not in report else None


def largest_ratio(args, base, folder, passes_of, target):
    """A ratio whose file is not larger than the target, and by a quarter of a percent smaller at most."""
    ratio, low, high = 0.5, 0.0, 1.0
    for _ in range(8):
        size = size_of(args, base, folder, passes_of(ratio))
        if size is None:
            return None
        if 0.9975 * target <= size <= target:
            return ratio
        low, high = (max(low, ratio), high) if size < target else (low, min(high, ratio))
        ratio += (0.9987 * target - size) * ratio / size  # sizes are nearly straight lines
        if not low < ratio < high:
            ratio = (low + high) / 2
    return low if low > 0 else None


class Bench:
    def __init__(self, args, cells, folder):
        self.args, self.cells, self.folder = args, cells, folder
        self.base = folder / "base.onnx"
        compress(args.model, self.base, [], recipe="clean")
        self.judge = Judge(self.base, args.data)

    def cell(self, column, row, make):
        """`make` gives the passes, or None where the family cannot be that small."""
        self.cells.measured(f"{self.args.model.stem} | {column} | {row}", lambda: self.measure(make()))

    def measure(self, passes):
        if passes is None:
            return {"error": "cannot be made that small"}
        out = self.folder / "o.onnx"
        report = compress(self.base, out, passes, calibration=self.args.calibration,
                          samples=self.args.calibration_samples)
        if "error" in report:
            return report
        return {"file": out.stat().st_size, "passes": " ".join(passes), "seconds": report["wall"], **self.judge.of(out)}

    def file(self, column, row):
        return self.cells.rows[f"{self.args.model.stem} | {column} | {row}"]["file"]

    def ratio_cell(self, column, row, target, passes_of):
        def make():
            ratio = largest_ratio(self.args, self.base, self.folder, passes_of, target)
            return None if ratio is None else passes_of(ratio)
        self.cell(column, row, make)

    def run(self):
        sweeps = 0 if self.args.no_refit or self.args.quick else 1
        spread = "uniform" if self.args.quick else "error"
        how = " (not solved anew)" if sweeps == 0 else ""
        self.cell("as it is", "as it is", lambda: ["remove-dead-nodes"])
        for name, one in (("4 bits", FOUR), ("3 bits, stored in 4", THREE), ("2 bits", TWO)):
            self.cell("4 bits", name, lambda p=one: [p])
        for count in self.args.blocks:
            for column, after in ((f"{count} blocks", []), (f"{count} blocks, 4 bits", [FOUR])):
                end = ", 4 bits" if after else ""
                self.cell(column, "blocks dropped" + end, lambda c=count, a=after: [f"drop-blocks:count={c}", *a])
                target = self.file(column, "blocks dropped" + end)
                self.ratio_cell(column, "low rank" + end, target, lambda r, a=after: [*low_rank(r, spread), *a])
                self.ratio_cell(column, "tied" + end + how, target, lambda r, a=after: [*tied(r, sweeps, spread), *a])


def render(args, cells):
    print("| size of | what | file bytes | output error | metric |\n| --- | --- | --- | --- | --- |")
    for key, row in cells.rows.items():
        model, column, name = key.split(" | ")
        if model != args.model.stem:
            continue
        if "error" in row:
            print(f"| {column} | {name} | {row['error']} | | |")
            continue
        metric = f"{100 * row['metric']:.1f} %" if row["kind"] == "accuracy" else f"{row['metric']:.3f}"
        print(f"| {column} | {name} | {row['file']:,} | {row['outputs']:.3f} | {metric} |")


def main():
    parser = table_arguments(__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--no-refit", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--calibration-samples", type=int)
    args = parser.parse_args()
    cells = Cells(args.cells)
    if not args.render:
        with tempfile.TemporaryDirectory() as folder:
            Bench(args, cells, pathlib.Path(folder)).run()
    render(args, cells)


if __name__ == "__main__":
    main()
