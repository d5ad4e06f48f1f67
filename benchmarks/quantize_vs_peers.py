"""Output error of low-bit weights: onnxfold beside ONNX Runtime's quantizers, the same model, the same text.

    python benchmarks/quantize_vs_peers.py MODEL.onnx DATA.npz [--calibration C.npz] [--only TEXT] [--rows FILE] [--repeat]

MODEL and DATA as export_minilm.py writes them (or any encoder with a mask named attention_mask); C other text, from the same
script, for the rows that learn from data. Only MatMul weights are
quantized, activations stay float32 (accuracy level 0), so that the weights make all of the error. Columns: bits per weight
counted over codes, scales and zero points of the file; seconds of the whole process (ONNX Runtime: of process() alone);
relative L2 error of the first output on unmasked positions, in percent; (1 - cosine) of mean-pooled embeddings x 10^4. What a row
needs (the data, ONNX Runtime's quantizers and what they import, the program) is asked for before the first one runs. With --rows
finished rows are kept in FILE (JSON, one a line) and not made again unless --repeat is given."""

import argparse
import contextlib
import hashlib
import importlib
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"


def outputs(path, feeds):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})[0]


def pooled(hidden, mask):
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


def errors(got, wanted, mask):
    kept = mask.astype(bool)
    relative = np.linalg.norm(got[kept] - wanted[kept]) / np.linalg.norm(wanted[kept])
    a, b = pooled(got, mask), pooled(wanted, mask)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return 100 * relative, 1e4 * (1 - cosine.mean())


def stored_bits(path):
    """Bits per quantized weight: everything that feeds MatMulNBits but its activations and bias."""
    model = onnx.load(path)
    sizes = {t.name: len(t.raw_data) or onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    total = weights = 0
    seen = set()

    def count(name):
        if not name or name in seen:
            return 0
        seen.add(name)
        if name in sizes:
            return sizes[name]
        return sum(count(i) for i in makers[name].input) if name in makers else 0

    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {a.name: a.i for a in node.attribute}
            weights += attributes["K"] * attributes["N"]
            total += sum(count(name) for name in node.input[1:4])
    return 8 * total / max(weights, 1), weights


CALIBRATION = []


def gptq(model, target, options):
    return fold(model, target, "gptq" + (":" if options else "") + options, CALIBRATION)


def fold(model, target, options, extra=()):
    name, _, rest = options.partition(":")
    step = f"{name}:gather=false,accuracy-level=0{',' if rest else ''}{rest}"
    start = time.perf_counter()
    done = subprocess.run([ONNXFOLD, "compress", model, "-o", target, "-f", "-q", "--no-check", "--pass", step, *extra],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - start


def ort(model, target, options):
    from onnxruntime.quantization import matmul_nbits_quantizer as q

    settings = dict(part.split("=") for part in options.split(",") if part)
    bits, block, symmetric = int(settings.get("bits", 4)), int(settings.get("block", 32)), settings.get("symmetric", "1") == "1"
    common = {"op_types_to_quantize": ("MatMul",)}
    method = settings.get("method", "rtn")
    if method == "hqq":
        config = q.HQQWeightOnlyQuantConfig(block_size=block, bits=bits, quant_axes=(("MatMul", 0),), **common)
    elif method == "k_quant":
        config = q.KQuantWeightOnlyQuantConfig(**common)
    else:
        config = q.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, accuracy_level=0, bits=bits, **common)
    quantizer = q.MatMulNBitsQuantizer(onnx.load(model), bits=bits, block_size=block, is_symmetric=symmetric, accuracy_level=0,
                                       algo_config=config)
    logging.disable(logging.INFO)
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        quantizer.process()
    seconds = time.perf_counter() - start
    quantizer.model.save_model_to_file(str(target))
    return seconds


ROWS = [
    (ort, "bits=4"), (fold, "rtn"), (fold, "rtn-search"),
    (ort, "bits=4,symmetric=0"), (fold, "rtn:symmetric=false"), (fold, "rtn-search:symmetric=false"), (fold, "hqq"),
    (ort, "method=hqq"), (fold, "hqq:zero-points=float"), (ort, "method=hqq,block=64"), (fold, "hqq:zero-points=float,block=64"),
    (ort, "method=k_quant"),
    (fold, "rtn:block=16,scales=float16"), (fold, "rtn-search:block=16,scales=float16"),
    (fold, "rtn-search:block=16,scales=int8"), (fold, "rtn-search:scales=float16"),
    (fold, "rtn-search:symmetric=false,scales=float16"), (fold, "rtn-search:symmetric=false,block=16,scales=int8"),
    (fold, "rtn-search:symmetric=false,block=16,scales=float16"), (fold, "hqq:block=16,scales=int8"),
    (fold, "rtn-search:block=16,scales=power-of-two"), (fold, "rtn:scales=power-of-two"),
    (fold, "rtn-search:scales=power-of-two"),
    (gptq, ""), (gptq, "block=16,scales=float16"), (gptq, "block=16,scales=float16,quality=high"),
    (gptq, "block=16,scales=int8,quality=high"), (gptq, "symmetric=false,scales=float16,quality=high"),
    (gptq, "scales=float16,quality=high"), (gptq, "bits=3,quality=high"), (gptq, "bits=2,quality=high"), (gptq, "bits=8"),
    (ort, "bits=8"), (fold, "rtn:bits=8"), (fold, "rtn-search:bits=8,scales=float16"), (fold, "rtn:bits=8,block=channel"),
    (fold, "rtn:bits=3"), (fold, "rtn-search:bits=3"), (fold, "rtn-search:bits=3,symmetric=false"),
    (ort, "bits=2"), (fold, "rtn:bits=2"), (fold, "rtn-search:bits=2"), (fold, "rtn-search:bits=2,symmetric=false,block=16,scales=float16"),
]


def lacking(arguments, rows):
    """Why the rows cannot run, before any has."""
    for path in (arguments.model, arguments.data, arguments.calibration):
        if path and not path.is_file():
            return f"there is no file {path}"
    if not ONNXFOLD.is_file():
        return f"there is no {ONNXFOLD}: build it first"
    if any(make is gptq for make, _ in rows) and not arguments.calibration:
        return "rows of gptq need --calibration (or leave them out with --only)"
    modules = {"onnxruntime.quantization.matmul_nbits_quantizer"} if any(make is ort for make, _ in rows) else set()
    if any("hqq" in options for make, options in rows if make is ort):
        modules.add("torch")
    for module in sorted(modules):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"rows of ONNX Runtime need {module}: {error} (or leave them out with --only onnxfold)"
    for path in filter(None, (arguments.data, arguments.calibration)):
        missing = {i.name for i in onnxruntime.InferenceSession(str(arguments.model)).get_inputs()} - set(np.load(path).files)
        if missing or "attention_mask" not in np.load(path).files:
            return f"{path} lacks {', '.join(sorted(missing)) or 'attention_mask'}"
    return None


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def label_of(make, options):
    return {ort: "onnxruntime ", fold: "onnxfold    ", gptq: "onnxfold    gptq "}[make] + options


def measured(make, options, model, feeds, mask, wanted):
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "low.onnx"
        try:
            seconds = make(model, target, options)
            relative, cosine = errors(outputs(target, feeds), wanted, mask)
            return {"bits": stored_bits(target)[0], "seconds": seconds, "error": float(relative), "cosine": float(cosine)}
        except Exception as error:  # a row that fails is a result
            return {"failed": (str(error).strip().splitlines() or [type(error).__name__])[0][:90]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--calibration", type=pathlib.Path, help="text for gptq, as DATA but other passages")
    parser.add_argument("--only", default="", help="rows whose text contains this")
    parser.add_argument("--rows", type=pathlib.Path, help="where finished rows are kept")
    parser.add_argument("--repeat", action="store_true")
    arguments = parser.parse_args()
    rows = [(make, options) for make, options in ROWS if arguments.only in label_of(make, options)]
    if why := lacking(arguments, rows):
        sys.exit(why)
    if arguments.calibration:
        CALIBRATION.extend(["--calibration", str(arguments.calibration)])
    inputs = [digest(path) for path in (arguments.model, arguments.data, arguments.calibration) if path]
    kept = {}
    if arguments.rows and arguments.rows.exists() and not arguments.repeat:
        found = map(json.loads, arguments.rows.read_text(encoding="utf-8").splitlines())
        kept = {row["label"]: row for row in found if row["inputs"] == inputs}
    feeds = dict(np.load(arguments.data))
    mask = feeds["attention_mask"].astype(np.float32)
    wanted = outputs(arguments.model, feeds)
    print(f"{'':56}{'bits':>7}{'seconds':>9}{'error %':>9}{'cos e-4':>9}")
    for make, options in rows:
        label = label_of(make, options)
        row = kept.get(label)
        if row is None:
            row = {"label": label, "inputs": inputs, **measured(make, options, arguments.model, feeds, mask, wanted)}
            if arguments.rows and "failed" not in row:
                with arguments.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        if "failed" in row:
            print(f"{label:56} failed: {row['failed']}", flush=True)
        else:
            print(f"{label:56}{row['bits']:7.3f}{row['seconds']:9.2f}{row['error']:9.2f}{row['cosine']:9.1f}", flush=True)


if __name__ == "__main__":
    main()
