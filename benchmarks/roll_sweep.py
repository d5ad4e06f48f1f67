"""Which exports roll-layers rolls, which not and why; and whether what it writes is right.

    python tests/analysis/structure/export_models.py OUT --layers 4 [--variants ts17,dy18]
    python benchmarks/roll_sweep.py OUT/*.onnx [--form scan|loop|auto] [--quiet]

Needs an interpreter with numpy, onnx and onnxruntime, and build/release/cli/onnxfold. For every model that rolls: the
reference executor gives the same bits for the original, the rolled and the unrolled form; ONNX Runtime loads all of
them and agrees with itself (models with inputs past.*: in five steps of decoding, caches handed on); the file is no
larger than the unrolled one; a second roll of the unrolled form has no more nodes than the first. Exits with 1 when one
of these fails."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

ONNXFOLD = os.environ.get("ONNXFOLD", pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold")
LIMIT = 2e-4  # of the largest output: kernels for constant and for computed weights add up in other orders
HALF = 2e-2
BATCH, PAST, STEPS = 2, 5, 5
LENGTHS = ((6, 6), (7, 5), (400, 400))  # of the first input and of others: the first pair that the model runs with


def onnxfold(*arguments):
    done = subprocess.run([ONNXFOLD, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit {done.returncode}")
    return done.stdout + done.stderr


def compress(source, target, single):
    return onnxfold("compress", source, "-o", target, "-v", "-f", "--no-check", "--inline", "--threads", "1", "--pass", single)


def feeds_for(path, lengths=LENGTHS[0]):
    """Small inputs by name: ids, masks, caches (past.N.part of length PAST), floats."""
    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [given for given in graph.input if given.name not in weights]
    past = PAST if any(given.name.startswith("past") for given in inputs) else 0
    rng = np.random.default_rng(0)
    feeds = {}
    for given in inputs:
        kind = given.type.tensor_type
        free = [BATCH] + 3 * [lengths[0 if given is inputs[0] or kind.elem_type == onnx.TensorProto.INT64 else 1]]
        if given.name.startswith("past"):
            free[2] = past
        elif "mask" in given.name:
            free[1] += past
        shape = [dim.dim_value if dim.HasField("dim_value") else free[i] for i, dim in enumerate(kind.shape.dim)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "f":
            feeds[given.name] = rng.standard_normal(shape).astype(dtype)
        elif "mask" in given.name or dtype.kind == "b":
            feeds[given.name] = np.ones(shape, dtype)
        else:
            feeds[given.name] = rng.integers(3, 20, shape).astype(dtype)
    return feeds


def in_runtime(path, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))


def decoded(path, feeds):
    """All outputs of STEPS runs, each with the caches that the one before gave and the next token of the last logits."""
    feeds, results = dict(feeds), {}
    names = [name for name in feeds if name.startswith("past")]
    for step in range(STEPS if names else 1):
        out = in_runtime(path, feeds)
        results.update({f"{name} {step}": value for name, value in out.items()})
        for name in names:
            feeds[name] = out[name.replace("past", "present")]
        if names:
            logits = next(iter(out.values()))
            feeds["input_ids"] = logits[:, -1:].argmax(-1).astype(feeds["input_ids"].dtype)
            batch, tokens = feeds["input_ids"].shape
            for name in feeds:
                if "mask" in name:
                    feeds[name] = np.ones((batch, feeds[names[0]].shape[2] + tokens), feeds[name].dtype)
    return results


def in_executor(path, data, folder):
    onnxfold("run", path, "--data", data, "-o", folder / "out.npz", "-f", "-q", "--threads", "1")
    return dict(np.load(folder / "out.npz"))


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a)


def off(a, b):
    worst = 0.0
    for name in a:
        x, y = a[name].astype(np.float64), b[name].astype(np.float64)
        if x.shape != y.shape:
            return float("inf")
        finite = np.isfinite(x) & np.isfinite(y)
        if not np.array_equal(np.isfinite(x), np.isfinite(y)):
            return float("inf")
        if finite.any():
            worst = max(worst, float(np.max(np.abs(x - y)[finite]) / max(1e-6, np.max(np.abs(x[finite])))))
    return worst


def count(path):
    return len(onnx.load(path).graph.node)


def same_function(original, others, folder):
    """What is wrong, one string each, and the largest difference in ONNX Runtime."""
    wrong, worst = [], 0.0
    for lengths in LENGTHS:
        feeds = feeds_for(original, lengths)
        np.savez(folder / "in.npz", **feeds)
        try:
            bits = in_executor(original, folder / "in.npz", folder)
            break
        except RuntimeError:
            if lengths == LENGTHS[-1]:
                raise
    half = any(value.dtype == np.float16 for value in bits.values()) or ".half." in original.name
    try:
        base = decoded(original, feeds)
    except Exception as error:
        base = None
        print(f"    ONNX Runtime does not run the original: {str(error)[:120]}")
    for name, path in others.items():
        if not same_bits(bits, in_executor(path, folder / "in.npz", folder)):
            wrong.append(f"{name}: other bits in the executor")
        if base is None:
            continue
        try:
            difference = off(base, decoded(path, feeds))
        except Exception as error:
            wrong.append(f"{name}: ONNX Runtime: {str(error)[:200]}")
            continue
        worst = max(worst, difference)
        if not difference <= (HALF if half else LIMIT):
            wrong.append(f"{name}: off by {difference:.1e} in ONNX Runtime")
    return wrong, worst


def remarks(text, *kinds):
    lines = [line.split("roll-layers:", 1)[1].strip() for line in text.splitlines()
             if line.split(" ", 1)[0] in kinds and "roll-layers:" in line]
    return lines


def check(model, form, folder):
    """(rolled?, lines to print, failures)"""
    rolled, unrolled, again, plain = (folder / f"{name}.onnx" for name in ("rolled", "unrolled", "again", "plain"))
    text = compress(model, rolled, f"roll-layers:form={form}")
    did = remarks(text, "did")
    if not did:
        return False, remarks(text, "skip", "skipped", "note"), []
    compress(rolled, unrolled, "unroll-layers")
    compress(unrolled, again, f"roll-layers:form={form}")
    compress(model, plain, "remove-dead-nodes")
    wrong, worst = same_function(model, {"rolled": rolled, "unrolled": unrolled}, folder)
    sizes = rolled.stat().st_size, plain.stat().st_size
    if sizes[0] > sizes[1]:
        wrong.append(f"the file grew from {sizes[1]} to {sizes[0]} bytes")
    if count(again) > count(rolled):
        wrong.append(f"rolled again: {count(again)} nodes instead of {count(rolled)}")
    return True, [*did, f"{count(plain)} to {count(rolled)} nodes, {sizes[1]} to {sizes[0]} bytes, off {worst:.1e}"], wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--form", default="auto")
    parser.add_argument("--quiet", action="store_true", help="only what does not roll, and failures")
    arguments = parser.parse_args()
    rolled = failed = 0
    with tempfile.TemporaryDirectory() as name:
        for model in arguments.models:
            try:
                ok, lines, wrong = check(model, arguments.form, pathlib.Path(name))
            except Exception as error:
                ok, lines, wrong = False, [], [str(error)]
            rolled, failed = rolled + ok, failed + bool(wrong)
            if arguments.quiet and ok and not wrong:
                continue
            print(f"{model.stem}: {'rolled' if ok else 'not rolled'}{' WRONG' if wrong else ''}", flush=True)
            for line in [*lines, *(f"WRONG {each}" for each in wrong)]:
                print(f"    {line}", flush=True)
    print(f"{rolled} of {len(arguments.models)} rolled, {failed} wrong")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
