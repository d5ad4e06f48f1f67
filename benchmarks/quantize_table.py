"""What every weight-only method costs a language model at 8, 4, 3 and 2 bits: one table.

    python benchmarks/quantize_table.py MODEL.onnx DATA.npz CALIBRATION.npz [--block 32] [--samples N] [--methods a,b]
                                        [--exclude GLOB] [--cells FILE] [--repeat]

DATA and CALIBRATION hold token windows named like the model's input (samples/bytelm.onnx, kjv_valid.npz, kjv_calib.npz; those
of train_gpt2.py). Each cell is the task number of the whole model after the passes, measured by onnxfold on DATA (bits per byte
for byte models, else perplexity with its rise in percent), and the bits a weight. Activations stay in float32 (accuracy level
0) but for the last row, scales are stored in float16; with --tables embeddings are quantized as well. Cells go to FILE (JSON, one
a line; default: cells.jsonl in the current folder) as they finish, and those that are there are not made again unless --repeat
is given. Needs nothing but Python."""

import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"
WIDTHS = (8, 4, 3, 2)
METHODS = {  # {} stands for what all weight-only passes get
    "rtn": ["rtn:symmetric=true,{}"],
    "rtn, zero points": ["rtn:symmetric=false,{}"],
    "rtn-search": ["rtn-search:symmetric=true,{}"],
    "rtn-search, zero points": ["rtn-search:symmetric=false,{}"],
    "hqq": ["hqq:zero-points=rounded,{}"],
    "smooth, rtn-search": ["smooth", "rtn-search:symmetric=true,{}"],
    "awq": ["awq:symmetric=true,{}"],
    "awq, zero points": ["awq:symmetric=false,{}"],
    "rtn-search, refit-norms": ["rtn-search:symmetric=true,{}", "refit-norms"],
    "rtn-search, correct-bias": ["rtn-search:symmetric=true,{}", "correct-bias"],
    "rtn-search, correct-low-rank": ["rtn-search:symmetric=true,{}", "correct-low-rank:rank=16"],
    "gptq": ["gptq:symmetric=true,{}"],
    "gptq, zero points": ["gptq:symmetric=false,{}"],
    "gptq quality=high": ["gptq:symmetric=true,quality=high,{}"],
    "gptq quality=high, zero points": ["gptq:symmetric=false,quality=high,{}"],
    "smooth, qdq-int8 (activations as well)": ["smooth", "qdq-int8"],
}


def steps_of(method, bits, arguments):
    if bits != 8 and any("int8" in step for step in METHODS[method]):
        return None
    options = f"bits={bits},block={arguments.block},scales=float16,accuracy-level=0"
    options += "" if arguments.tables else ",gather=false"
    options += f",exclude={arguments.exclude}" if arguments.exclude else ""
    return [step.format(options) if step != "qdq-int8" or not arguments.exclude else f"{step}:exclude={arguments.exclude}"
            for step in METHODS[method]]


def run(arguments, steps):
    with tempfile.TemporaryDirectory() as folder:
        report = f"{folder}/report.json"
        command = [arguments.onnxfold, "compress", arguments.model, "-o", f"{folder}/out.onnx", "-q", "--force", "--controls", "no",
                   "--data", arguments.data, "--calibration", arguments.calibration, "--min-cosine", "-1", "--report", report]
        for step in steps:
            command += ["--pass", step]
        if arguments.samples:
            command += ["--samples", str(arguments.samples)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
        with open(report, encoding="utf-8") as file:
            found = json.load(file)
    rows = [row for row in found["remarks"] if row["kind"] == "applied" and row["result_bytes"]]
    weights = sum(row["weight_bytes"] for row in rows) / 4
    return {"task": found["check"]["task"], "bits": 8 * sum(row["result_bytes"] for row in rows) / max(weights, 1)}


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:12]


class Cells:
    def __init__(self, path, repeat):
        self.path, self.found = pathlib.Path(path), {}
        if self.path.exists() and not repeat:
            for line in self.path.read_text(encoding="utf-8").splitlines():
                cell = json.loads(line)
                self.found[cell["key"]] = cell

    def get(self, key, make):
        if key not in self.found:
            cell = {"key": key, **make()}
            if "failed" in cell:  # tried again next time
                return cell
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")
            self.found[key] = cell
        return self.found[key]


def text_of(cell):
    if "failed" in cell:
        return "failed"
    task = cell["task"]
    if task["kind"] == "perplexity":
        rise = 100 * (task["after"] / task["before"] - 1)
        return f"{task['after']:.2f}, {rise:+.1f} % ({cell['bits']:.2f})"
    return f"{task['after']:.4f} ({cell['bits']:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("calibration")
    parser.add_argument("--block", default="32")
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--methods", default="", help="only rows whose name contains one of these")
    parser.add_argument("--exclude", default="", help="weights that stay in float (a glob of names; several with ;)")
    parser.add_argument("--cells", default="cells.jsonl")
    parser.add_argument("--repeat", action="store_true")
    parser.add_argument("--onnxfold", default=str(ONNXFOLD))
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.data, arguments.calibration, arguments.onnxfold):
        if not pathlib.Path(path).is_file():
            sys.exit(f"there is no file {path}")
    inputs = " ".join(digest(path) for path in (arguments.model, arguments.data, arguments.calibration))
    wanted = [word for word in arguments.methods.split(",") if word]
    cells, before = Cells(arguments.cells, arguments.repeat), None
    print("| method | " + " | ".join(f"{bits} bits" for bits in WIDTHS) + " |\n" + "| --- " * (len(WIDTHS) + 1) + "|")
    for name in METHODS:
        if wanted and not any(word in name for word in wanted):
            continue
        row = []
        for bits in WIDTHS:
            steps = steps_of(name, bits, arguments)
            if steps is None:
                row.append("")
                continue
            cell = cells.get(f"{inputs} {arguments.samples} {' + '.join(steps)}", lambda: run(arguments, steps))
            before = cell.get("task", before)
            row.append(text_of(cell))
        print(f"| {name} | {' | '.join(row)} |", flush=True)
    if before:
        print(f"\n{before['kind']} of the original: {before['before']:.4f}; in brackets bits a weight, as stored")


if __name__ == "__main__":
    main()
