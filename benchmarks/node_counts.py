"""Nodes that clean-up leaves: the model as it is, and after onnxsim, onnxslim and onnxfold's recipe clean, side by side.

    python benchmarks/node_counts.py [--recipe clean] MODEL.onnx|FOLDER...

Needs an interpreter with scripts/requirements-bench.txt, and build/release/cli/onnxfold. Counts the nodes of the main graph
and of every subgraph and function, Constant nodes left out (they are initializers by another name). A row where onnxfold
leaves more than the better of the two others is marked and named by operator, and makes the exit code 1."""

import argparse
import collections
import pathlib
import subprocess
import sys
import tempfile

import onnx

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"


def operators(graph):
    """Counter of the operators of a graph or function with its subgraphs."""
    counts = collections.Counter()
    for node in graph.node:
        if node.op_type != "Constant":
            counts[node.op_type] += 1
        for attribute in node.attribute:
            for subgraph in [attribute.g, *attribute.graphs]:
                counts += operators(subgraph)
    return counts


def count(path):
    model = onnx.load(path, load_external_data=False)
    return sum((operators(function) for function in model.functions), operators(model.graph))


def cleaned(model, recipe, folder):
    """{tool: operators} of what each tool leaves; None for one that fails."""
    out = {tool: folder / f"{tool}.onnx" for tool in ("onnxsim", "onnxslim", "onnxfold")}
    commands = {
        "onnxsim": [sys.executable, "-m", "onnxsim", model, out["onnxsim"]],
        "onnxslim": [sys.executable, "-m", "onnxslim", model, out["onnxslim"]],
        "onnxfold": [ONNXFOLD, "compress", model, "--recipe", recipe, "-q", "-f", "-o", out["onnxfold"]],
    }
    results = {}
    for tool, command in commands.items():
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        results[tool] = count(out[tool]) if done.returncode == 0 and out[tool].exists() else None
        if results[tool] is None:
            print(f"{tool} failed on {model.name}: {(done.stderr or done.stdout).strip()[-300:]}", file=sys.stderr)
    return results


def models_of(paths):
    for path in paths:
        yield from sorted(path.rglob("*.onnx")) if path.is_dir() else [path]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="clean")
    parser.add_argument("paths", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    print(f"{'':40}{'original':>10}{'onnxsim':>9}{'onnxslim':>10}{'onnxfold':>10}")
    lost = 0
    for model in models_of(arguments.paths):
        with tempfile.TemporaryDirectory() as folder:
            results = cleaned(model, arguments.recipe, pathlib.Path(folder))
        totals = {tool: None if found is None else found.total() for tool, found in results.items()}
        print(f"{model.name:40}{count(model).total():>10}" +
              "".join(f"{'failed' if total is None else total:>{width}}"
                      for total, width in zip(totals.values(), (9, 10, 10))), end="")
        best = min((total, tool) for tool, total in totals.items() if tool != "onnxfold" and total is not None)
        ours = results["onnxfold"]
        if ours is None or ours.total() > best[0]:
            lost += 1
            more = "" if ours is None else ", ".join(f"{op} +{n}" for op, n in (ours - results[best[1]]).items())
            print(f"   LOST to {best[1]}: {more}", end="")
        print(flush=True)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
