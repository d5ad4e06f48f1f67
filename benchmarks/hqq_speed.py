"""HQQ as whole processes in turn: onnxfold beside ONNX Runtime's quantizer (which needs torch, onnxruntime and onnx_ir).

    python benchmarks/hqq_speed.py MODEL.onnx [--runs 7]

MODEL: say MiniLM-L6 as export_minilm.py writes it (36 matrices). Both quantize the weights of MatMul to 4 bits in blocks of 32,
leave embeddings in float, and write a model. Medians of wall time, peak memory, and both as multiples of onnxfold's."""

import argparse
import pathlib
import sys
import tempfile

import measure

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"


def quantize_with_onnxruntime(model, target):
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = HQQWeightOnlyQuantConfig(block_size=32, bits=4, quant_axes=(("MatMul", 0),))
    quantizer = MatMulNBitsQuantizer(onnx.load(model), bits=4, block_size=32, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peer", metavar="TARGET", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return quantize_with_onnxruntime(arguments.model, arguments.peer)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = f"{folder}/onnxfold.onnx", f"{folder}/onnxruntime.onnx"
        fold = [str(ONNXFOLD), "compress", arguments.model, "-o", ours, "-q", "--no-check", "--controls", "no"]
        copy = f"{folder}/copy.onnx"
        commands = {
            "onnxfold": fold + ["--pass", "hqq:bits=4,block=32,gather=false"],
            "ONNX Runtime": [sys.executable, __file__, arguments.model, "--peer", theirs],
            "cp": ["cp", arguments.model, copy],
        }
        results = measure.alternate(commands, arguments.runs, targets=(ours, theirs, copy))
    measure.print_table("HQQ, 4 bits, blocks of 32", results, "onnxfold")


if __name__ == "__main__":
    main()
