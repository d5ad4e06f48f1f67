"""4-bit quantization of a large decoder: onnxfold beside ONNX Runtime's MatMulNBitsQuantizer and a plain copy.

    python benchmarks/quantize_large.py [--runs N] [--folder DIR] [make_decoder.py options]
    python benchmarks/quantize_large.py --memory-only --layers 95 --sparse      # 20 GB that take no room; onnxfold alone
    python benchmarks/quantize_large.py --memory-only --layers 6 --inline       # 1.8 GB, weights in the model file itself

Whole processes in alternation, in one run; needs an interpreter with scripts/requirements-bench.txt and about 10 GB free in
the folder (default: the system's temporary one), or 4 GB with --memory-only."""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

from measure import alternate, print_table, run_once

HERE = pathlib.Path(__file__).resolve().parent
ONNXFOLD = HERE.parent / "build/release/cli/onnxfold"
ORT = """
import sys, onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
quantizer = MatMulNBitsQuantizer(onnx.load(sys.argv[1]), bits=4, block_size=32, is_symmetric=True, accuracy_level=4)
quantizer.process()
quantizer.model.save_model_to_file(sys.argv[2], use_external_data_format=True)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--inline", action="store_true", help="one file below 2 GB instead of external data")
    parser.add_argument("--onnxfold", default=str(ONNXFOLD))
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = f"{folder}/decoder.onnx"
        subprocess.run([sys.executable, HERE / "make_decoder.py", model, *rest], check=True)
        if arguments.inline:
            subprocess.run([arguments.onnxfold, "convert", model, "-o", model, "-f", "-q", "--inline"], check=True)
        fold = [arguments.onnxfold, "compress", model, "-q", "--force", "--no-check", "-o"]
        if arguments.memory_only:
            for step in ("rtn:bits=4,block=32", "rtn-search:bits=4,block=16,scales=float16", "hqq:bits=4,block=32"):
                rest = ["--controls", "no", "--pass", step]
                planned = [part for part in fold if part != "-q"] + [f"{folder}/fold.onnx", "--dry-run", *rest]
                said = subprocess.run(planned, check=True, capture_output=True, text=True).stdout
                predicted = re.search("peak memory about (.*)", said).group(1)
                seconds, peak, _ = run_once([*fold, f"{folder}/fold.onnx", *rest])
                print(f"{step}: {seconds:.1f} s, {peak:.0f} MB resident at most, --dry-run said {predicted}", flush=True)
            return
        results = alternate({
            "onnxfold rtn": [*fold, f"{folder}/fold.onnx", "--pass", "rtn:bits=4,block=32,gather=false"],
            "onnxfold int4 (clean, rtn-search)": [*fold, f"{folder}/fold.onnx", "--recipe", "int4"],
            "ONNX Runtime quantizer": [sys.executable, "-c", ORT, model, f"{folder}/ort.onnx"],
            "cp": ["cp", model if arguments.inline else f"{model}.data", f"{folder}/copy"],
        }, arguments.runs, targets=[f"{folder}/{name}" for name in ("fold.onnx", "ort.onnx", "ort.onnx.data", "copy")])
        print_table("4 bits, blocks of 32, symmetric", results, "onnxfold rtn")


if __name__ == "__main__":
    main()
