"""What each way to choose ranges of activations (`qdq-int8:ranges=...`) costs: one row a model.

    python benchmarks/int8_ranges.py ONNXFOLD NAME=MODEL.onnx,CALIBRATION.npz,DATA.npz... [--before smooth,...] [--after correct-bias,...]

CALIBRATION is what ranges are seen on, DATA judges. Cells: the task number that onnxfold measures on DATA where it holds tokens
to predict or labels, and the relative L2 error of the first output in ONNX Runtime, over positions that attention_mask does not
leave out. Needs onnxruntime and numpy."""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import onnxruntime

METHODS = ["min-max", "percentile", "entropy", "mse", "cubed"]


def first_output(path, data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    count, step = len(data[inputs[0].name]), inputs[0].shape[0]
    step = step if isinstance(step, int) else 8
    return np.concatenate([session.run(None, {i.name: data[i.name][at : at + step] for i in inputs})[0] for at in range(0, count, step)])


def error(got, wanted, data):
    mask = data["attention_mask"].astype(bool) if "attention_mask" in data else np.ones(len(wanted), bool)
    return np.linalg.norm(got[mask] - wanted[mask]) / np.linalg.norm(wanted[mask])


def cell(arguments, model, calibration, data, wanted, method):
    with tempfile.TemporaryDirectory() as folder:
        out, report = f"{folder}/out.onnx", f"{folder}/report.json"
        arrays = dict(np.load(data))
        judge = ["--data", data, "--min-cosine", "-1"] if any(array.dtype.kind == "i" for array in arrays.values()) else ["--no-check"]
        steps = [*filter(None, arguments.before.split(",")), f"qdq-int8:ranges={method}", *filter(None, arguments.after.split(","))]
        command = [arguments.onnxfold, "compress", model, "-o", out, "-f", "-q", "--recipe", "clean", "--controls", "no",
                   "--calibration", calibration, *judge, "--report", report]
        for step in steps:
            command += ["--pass", step]
        subprocess.run(command, check=True)
        task = json.loads(pathlib.Path(report).read_text())["check"].get("task")
        text = f"{100 * error(first_output(out, arrays), wanted, arrays):.2f} %"
        return f"{text}, {task['after']:.4f} ({task['before']:.4f})" if task else text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnxfold")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--before", default="")
    parser.add_argument("--after", default="")
    arguments = parser.parse_args()
    print("| | " + " | ".join(METHODS) + " |\n" + "| --- " * (len(METHODS) + 1) + "|")
    for given in arguments.models:
        name, files = given.split("=", 1)
        model, calibration, data = files.split(",")
        wanted = first_output(model, dict(np.load(data)))
        row = [cell(arguments, model, calibration, data, wanted, method) for method in METHODS]
        print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
