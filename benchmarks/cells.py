"""Cells of a table, measured one after the other and written to a file as they are done, so that a cut costs nothing."""

import json
import os
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONNXFOLD = os.environ.get("ONNXFOLD", str(ROOT / "build/release/cli/onnxfold"))


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


def compress(model, out, passes, data=None, calibration=None, recipe=None):
    """Runs `onnxfold compress` without gates and controls; the report as a dictionary, or {"error": text}."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        command = [ONNXFOLD, "compress", str(model), "-o", str(out), "-f", "-q", "--threads", "1", "--controls", "no",
                   "--report", report]
        command += ["--recipe", recipe] if recipe else []
        for one in passes:
            command += ["--pass", one]
        command += ["--calibration", str(calibration)] if calibration else []
        command += ["--data", str(data), "--max-kl", "1e6"] if data else ["--no-check"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"}
        found = json.loads(pathlib.Path(report).read_text())
        found["wall"] = round(time.perf_counter() - start, 1)
        return found


def quality(report):
    """(name of the metric, the original's, the result's, relative error of the outputs)"""
    check = report["check"]
    error = max(output["max_rel_l2"] for output in check["outputs"])
    task = check["task"]
    return (task["kind"], task["before"], task["after"], error) if task else ("", None, None, error)
