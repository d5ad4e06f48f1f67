"""Formats chosen per weight (`--target-bits`) beside every uniform format that fits into the same budget.

    python benchmarks/mixed_bits.py MODEL.onnx --calibration C.npz --data D.npz --cells FILE [--budgets 2.5,3,...]
                                    [--quantizers gptq,rtn-search] [--render]

What is chosen is chosen on C alone; D, which neither saw, judges afterwards: KL divergence of the outputs to the original's and
the task number. The uniform column is the format that is best on D itself among those of at most as many bits, so that it has
the advantage. Sizes are those of the files. Needs scripts/requirements-bench.txt."""

import os
import tempfile

from cells import Cells, compress, table_arguments

# Bits, block, symmetric. 3 bits are stored in 4, and larger blocks of 2 bits are never better than those here.
UNIFORM = [(2, 64, "true"), (2, 64, "false"), (2, 32, "true"), (2, 32, "false"), (2, 16, "true"), (2, 16, "false"), (4, 128, "true"),
           (4, 64, "true"), (4, 64, "false"), (4, 32, "true")]


def numbers_of(report, bits):
    if "error" in report:
        return report
    output = report["check"]["outputs"][0]
    task = report["check"]["task"] or {}
    return {"bits": bits, "bytes": report["target"]["bytes"], "kl": output["kl"], "error": output["max_rel_l2"],
            "task": task.get("after"), "kind": task.get("kind"), "before": task.get("before"), "wall": report["wall"]}


def uniform(arguments, quantizer, form):
    bits, block, symmetric = form
    step = f"{quantizer}:bits={bits},block={block},symmetric={symmetric},scales=float16"
    with tempfile.TemporaryDirectory() as folder:
        report = compress(arguments.model, os.path.join(folder, "out.onnx"), [step], arguments.data, arguments.calibration, "clean")
    rows = [row for row in report.get("remarks", []) if row["kind"] == "applied" and row["result_bytes"]]
    weights = max(1, sum(row["weight_bytes"] for row in rows) / 4)
    return numbers_of(report, 8 * sum(row["result_bytes"] for row in rows) / weights)


def chosen(arguments, quantizer, budget):
    with tempfile.TemporaryDirectory() as folder:
        report = compress(arguments.model, os.path.join(folder, "out.onnx"), [f"{quantizer}:scales=float16"], arguments.data,
                          arguments.calibration, "clean", more=["--target-bits", str(budget)])
    if "error" in report:
        return report
    attempts = report["budget"]["attempts"]
    taken = next(attempt for attempt in attempts if attempt["verdict"] == "chosen")
    return {**numbers_of(report, taken["bits"]), "name": taken["candidate"],
            "tried": [[attempt["candidate"].split(":")[0], attempt["value"]] for attempt in attempts]}


def text_of(row):
    if row is None or "error" in row and "kl" not in row:
        return "-"
    task = f", {row['task']:.4f}" if row["task"] else ""
    return f"KL {row['kl']:.5f}{task} ({row['bits']:.2f} bits, {row['bytes'] / 1e6:.2f} MB)"


def main():
    parser = table_arguments(__doc__)
    parser.add_argument("--budgets", default="2.5,3,3.5,4,4.5")
    parser.add_argument("--quantizers", default="gptq,rtn-search")
    arguments = parser.parse_args()
    cells = Cells(arguments.cells)
    name = arguments.model.name
    lines = []
    for quantizer in arguments.quantizers.split(","):
        for budget in map(float, arguments.budgets.split(",")):
            best = None
            for form in UNIFORM:
                if form[0] + 16 / form[1] > budget:
                    continue
                key = f"{name} {quantizer} uniform {form[0]}/{form[1]}/{'sym' if form[2] == 'true' else 'asym'}"
                row = cells.rows.get(key) if arguments.render else cells.measured(key, lambda: uniform(arguments, quantizer, form))
                if row and "kl" in row and row["bits"] <= budget + 1e-9 and (best is None or row["kl"] < best["kl"]):
                    best = row
            key = f"{name} {quantizer} chosen {budget}"
            row = cells.rows.get(key) if arguments.render else cells.measured(key, lambda: chosen(arguments, quantizer, budget))
            form = best["key"].split()[-1] if best else "-"
            what = row["name"].split(":")[0] if row and "name" in row else "-"
            lines.append(f"| {quantizer} | {budget:g} | {form}: {text_of(best)} | {what}: {text_of(row)} |")
    print("| quantizer | budget, bits | best uniform format | chosen |\n| --- | --- | --- | --- |\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
