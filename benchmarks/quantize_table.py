"""What every weight-only method costs a language model at 8, 4, 3 and 2 bits: one table.

    python benchmarks/quantize_table.py MODEL.onnx DATA.npz CALIBRATION.npz [--block 32] [--samples N] [--methods a,b] [--exclude GLOB]

DATA and CALIBRATION hold token windows named like the model's input (samples/bytelm.onnx, kjv_valid.npz, kjv_calib.npz). Each
cell is the task number of the whole model after the pass (bits per byte for byte models, else perplexity), measured by
onnxfold on DATA, and the bits a weight. Activations stay in float32 (accuracy level 0), scales are stored in float16; with --tables
embeddings are quantized as well. Needs nothing but Python."""

import argparse
import json
import pathlib
import subprocess
import tempfile

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"
METHODS = {
    "rtn": "rtn:symmetric=true",
    "rtn, zero points": "rtn:symmetric=false",
    "rtn-search": "rtn-search:symmetric=true",
    "rtn-search, zero points": "rtn-search:symmetric=false",
    "hqq": "hqq:zero-points=rounded",
    "gptq": "gptq:symmetric=true",
    "gptq, zero points": "gptq:symmetric=false",
    "gptq quality=high": "gptq:symmetric=true,quality=high",
    "gptq quality=high, zero points": "gptq:symmetric=false,quality=high",
}


def run(arguments, step, folder):
    report = f"{folder}/report.json"
    command = [arguments.onnxfold, "compress", arguments.model, "-o", f"{folder}/out.onnx", "-q", "--force", "--controls", "no",
               "--data", arguments.data, "--calibration", arguments.calibration, "--min-cosine", "-1", "--report", report,
               "--pass", step]
    if arguments.samples:
        command += ["--samples", str(arguments.samples)]
    subprocess.run(command, check=True)
    with open(report, encoding="utf-8") as file:
        found = json.load(file)
    applied = sum(row["result_bytes"] for row in found["remarks"] if row["kind"] == "applied")
    weights = sum(row["weight_bytes"] for row in found["remarks"] if row["kind"] == "applied" and row["result_bytes"]) / 4
    return found["check"]["task"], 8 * applied / max(weights, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("calibration")
    parser.add_argument("--block", default="32")
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--methods", default="")
    parser.add_argument("--exclude", default="", help="weights that stay in float (a glob of names; several with ;)")
    parser.add_argument("--onnxfold", default=str(ONNXFOLD))
    arguments = parser.parse_args()
    wanted = [word for word in arguments.methods.split(",") if word]
    print("| method | 8 bits | 4 bits | 3 bits | 2 bits |\n| --- | --- | --- | --- | --- |")
    before = None
    with tempfile.TemporaryDirectory() as folder:
        for name, step in METHODS.items():
            if wanted and not any(word in name for word in wanted):
                continue
            cells = []
            for bits in (8, 4, 3, 2):
                options = f"bits={bits},block={arguments.block},scales=float16,accuracy-level=0"
                options += "" if arguments.tables else ",gather=false"
                options += f",exclude={arguments.exclude}" if arguments.exclude else ""
                task, stored = run(arguments, f"{step},{options}", folder)
                before = task
                cells.append(f"{task['after']:.4f} ({stored:.2f})")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{before['kind']} of the original: {before['before']:.4f}; in brackets bits a weight, as stored")


if __name__ == "__main__":
    main()
