"""Writes every ONNX backend node test to a folder, one sub-folder per case, for tests/conformance.

usage: dump_node_tests.py DIR     (needs the Python packages of scripts/requirements-onnx.txt)

DIR/<case>/model.onnx, DIR/<case>/test_data_set_<n>/{input,output}_<i>.pb and DIR/<case>/case.txt, whose only line is
"<relative tolerance> <absolute tolerance>". Each .pb is a TensorProto; a sequence is a folder input_<i>.sequence/ with the
items 0.pb, 1.pb... (or folders again), an optional is a folder input_<i>.optional/ with at most one item.
"""

import pathlib
import shutil
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases


def write_value(stem, value, type_proto, name):
    kind = type_proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        folder = stem.with_name(stem.name + "." + kind.removesuffix("_type"))
        folder.mkdir()
        items = value if kind == "sequence_type" else [] if value is None else [value]
        for i, item in enumerate(items):
            write_value(folder / str(i), item, getattr(type_proto, kind).elem_type, name)
        return
    tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value))
    tensor.name = name
    stem.with_name(stem.name + ".pb").write_bytes(tensor.SerializeToString())


def write_set(folder, prefix, values, infos):
    for i, (value, info) in enumerate(zip(values, infos)):
        write_value(folder / f"{prefix}_{i}", value, info.type, info.name)


def main(root):
    shutil.rmtree(root, ignore_errors=True)
    written, failed = 0, []
    for case in collect_testcases(None):
        folder = root / case.name
        try:
            folder.mkdir(parents=True)
            (folder / "model.onnx").write_bytes(case.model.SerializeToString())
            (folder / "case.txt").write_text(f"{case.rtol} {case.atol}\n")
            for number, (inputs, outputs) in enumerate(case.data_sets):
                data = folder / f"test_data_set_{number}"
                data.mkdir()
                write_set(data, "input", inputs, case.model.graph.input)
                write_set(data, "output", outputs, case.model.graph.output)
            written += 1
        except Exception as error:  # one bad case must not hide the others
            failed.append(f"{case.name}: {error}")
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{written} cases written to {root}")
    for line in failed:
        print("not written:", line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1])))
