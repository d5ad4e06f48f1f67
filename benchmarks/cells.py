"""Cells of a table, measured one after the other and written to a file as they are done, so that a cut costs nothing."""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONNXFOLD = os.environ.get("ONNXFOLD", str(ROOT / "build/release/cli/onnxfold"))


def table_arguments(description):
    """A parser with what every table needs: the model, its data, the file of cells, and --render."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--calibration", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--cells", required=True)
    parser.add_argument("--render", action="store_true")
    return parser


class Cells:
    """Rows of a JSON-lines file by their key. A row that is there is not measured again."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.rows = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                self.rows[row["key"]] = row

    def measured(self, key, measure):
        """The row of a key; measure() makes it where it is missing."""
        if key not in self.rows:
            row = {"key": key, **measure()}
            self.rows[key] = row
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(time.strftime("%H:%M:%S"), key, {k: v for k, v in row.items() if k != "key"}, flush=True)
        return self.rows[key]


def compress(model, out, passes, data=None, calibration=None, recipe=None, dry_run=False, samples=None,
             more=()):
    """Runs `onnxfold compress` without gates and controls; the report as a dictionary, or {"error": text}."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        command = [ONNXFOLD, "compress", str(model), "-o", str(out), "-f", "-q", "--threads", "1", "--controls", "no",
                   "--report", report]
        command += ["--recipe", recipe] if recipe else []
        for one in passes:
            command += ["--pass", one]
        command += ["--calibration", str(calibration)] if calibration else []
        command += ["--calibration-samples", str(samples)] if calibration and samples else []
        command += ["--dry-run"] if dry_run else []
        command += more
        command += ["--data", str(data), "--max-kl", "1e6"] if data else ["--no-check"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"}
        found = json.loads(pathlib.Path(report).read_text())
        found["wall"] = round(time.perf_counter() - start, 1)
        return found


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def batches(session, data):
    """Feeds of the model, with the rows that they are of."""
    arrays = np.load(data)
    inputs = [value.name for value in session.get_inputs()]
    size = session.get_inputs()[0].shape[0]
    step = size if isinstance(size, int) else 32
    for begin in range(0, len(arrays[inputs[0]]), step):
        yield {name: arrays[name][begin : begin + step] for name in inputs}


class Judge:
    """The metric of a model on data, and how far its outputs are from the original's (in the worst batch)."""

    def __init__(self, base, data):
        self.data = data
        self.arrays = dict(np.load(data))
        self.before = self.outputs(base)
        self.kind = "accuracy" if "labels" in self.arrays else "bits per byte"

    def outputs(self, path):
        session = session_of(str(path))
        return [session.run(None, feeds)[0].astype(np.float64) for feeds in batches(session, self.data)]

    def metric(self, outputs):
        logits = np.concatenate(outputs)
        if self.kind == "accuracy":
            return float(np.mean(np.argmax(logits, -1) == self.arrays["labels"].reshape(-1)))
        tokens = next(array for array in self.arrays.values() if array.shape == logits.shape[:2])
        rest = logits - logits.max(-1, keepdims=True)
        rest = rest - np.log(np.exp(rest).sum(-1, keepdims=True))
        picked = np.take_along_axis(rest[:, :-1], tokens[:, 1:, None], -1)
        return float(-picked.mean() / np.log(2))

    def of(self, path):
        now = self.outputs(path)
        error = max(np.linalg.norm(new - old) / np.linalg.norm(old) for new, old in zip(now, self.before))
        return {"outputs": float(error), "metric": self.metric(now), "original": self.metric(self.before),
                "kind": self.kind}
