"""Exports disguised and brought back: does alignment see through another basis, and does transport?

    python tests/passes/merge/disguise_exports.py FOLDER [--spelling dy18] [--only llama,bert]

FOLDER holds exports as tests/analysis/structure/export_models.py writes them. Every model is first written in the basis
of a model of the same graph with random weights (align:to=...), which permutes and rotates whatever may be; onnxfold
proves that it computes the same. Then it is aligned back, merged by align and by ot, and compared with the original,
weight by weight. A row says how much of the weights the disguise moved, and the largest relative error after each way
back. Needs numpy, onnx, onnxruntime."""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

ONNXFOLD = pathlib.Path(__file__).resolve().parents[3] / "build/release/cli/onnxfold"


def floats(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type in (1, 10, 11, 16)}


def scramble(source, target):
    """The same graph with random weights of the same scale."""
    model, random = onnx.load(source), np.random.default_rng(7)
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < 2:
            continue
        old = numpy_helper.to_array(tensor)
        new = (random.standard_normal(old.shape) * (old.std() + 1e-3)).astype(np.float32)
        if old.ndim == 1 and (old > 0).all():
            new = np.abs(new) + 0.5 * old.mean()
        tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    onnx.save(model, target)


def run(*arguments):
    done = subprocess.run([str(ONNXFOLD), *map(str, arguments)], capture_output=True, text=True)
    return done.returncode == 0, (done.stderr + done.stdout).strip()


def moved(path, original):
    """Share of the elements of matrices that are elsewhere, and the largest error against the original's scale."""
    one, two = floats(onnx.load(path)), floats(onnx.load(original))
    changed = total = 0
    worst = 0.0
    for name, b in two.items():
        a = one.get(name)
        if a is None or a.shape != b.shape:
            continue
        scale = np.abs(b).max() or 1.0
        off = np.abs(a.astype(np.float64) - b) / scale
        worst = max(worst, off.max(initial=0))
        if b.ndim >= 2:
            changed += (off > 1e-4).sum()
            total += b.size
    return changed / max(total, 1), worst


def loads(path):
    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return True
    except Exception:  # noqa: BLE001 - whatever the runtime says against it
        return False


def row(source, folder, rotate):
    plain, other, disguised, back, merged = (folder / f"{n}.onnx" for n in ("plain", "other", "disguised", "back", "merged"))
    fold = ["--pass", "fold-norm-affine"] if rotate else []
    ok, text = run("compress", source, "-o", plain, "-f", "-q", "--pass", "lift-constants", *fold)
    if not ok:
        return f"cannot be prepared: {text.splitlines()[0]}"
    scramble(plain, other)
    option = f"rotate={'true' if rotate else 'false'}"
    ok, text = run("compress", plain, "-o", disguised, "-f", "-q", "--pass", f"align:to={other},{option}", "--max-rel-l2", "1e-3")
    if not ok:
        return f"DISGUISE FAILED: {text.splitlines()[0][:200]}"
    share, _ = moved(disguised, plain)
    results = [f"moved {100 * share:5.1f} %", "loads" if loads(disguised) else "DOES NOT LOAD"]
    ways = [("back", ["compress", disguised, "-o", back, "-f", "-q", "--pass", f"align:to={plain},{option}", "--max-rel-l2", "1e-3"], back)]
    method = "align:repair=none" if rotate else "permute:repair=none"
    ways.append(("align", ["merge", disguised, plain, "-o", merged, "-f", "-q", "--no-check", "--method", method], merged))
    if not rotate:
        for features in ("weights",):
            exact = f"ot:solver=exact,policy=mean,features={features}"
            ways.append(("ot", ["merge", disguised, plain, "-o", merged, "-f", "-q", "--no-check", "--method", exact], merged))
    for name, command, path in ways:
        ok, text = run(*command)
        if not ok:
            results.append(f"{name} REFUSED {text.splitlines()[0][-160:]}")
            continue
        off = moved(path, plain)[1]
        # A merge may fold norms that the preparation left: then the weights are others, and what they compute counts.
        same = off <= 1e-4 or run("verify", plain, path, "-q", "--max-rel-l2", "1e-5")[0]
        results.append(f"{name} {off:.1e}{'' if off <= 1e-4 else ' same outputs' if same else ' BAD'}")
    return ", ".join(results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--spelling", default="dy18")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    only = set(filter(None, arguments.only.split(",")))
    with tempfile.TemporaryDirectory() as name:
        for source in sorted(arguments.folder.glob(f"*.{arguments.spelling}.onnx")):
            if only and source.name.split(".")[0] not in only:
                continue
            for rotate in (False, True):
                kind = "rotated " if rotate else "permuted"
                print(f"{source.name:32} {kind} {row(source, pathlib.Path(name), rotate)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
