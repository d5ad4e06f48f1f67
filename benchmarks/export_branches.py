"""Exports image models with their training-time branches apart: models of timm, also as timm itself merges them, and
small networks of blocks that timm does not have (benchmarks/branch_blocks.py: dbb, acnet, replknet, unireplknet).

    python benchmarks/export_branches.py FOLDER [--image 96] [NAME...]

Needs an environment of its own with torch, timm, onnx and onnxscript. Weights are random; BatchNormalization gets random
gains and biases and statistics from a few forward passes, so that nothing is an identity by accident. Writes
FOLDER/NAME.onnx (Conv and BatchNormalization apart, the export PyTorch makes for training) and FOLDER/NAME.timm.onnx
(after timm's reparameterize_model, the oracle)."""

import argparse
import pathlib
import warnings

import timm
import torch
from branch_blocks import NETWORKS
from timm.utils.model import reparameterize_model

NAMES = ["repvgg_a0", "mobileone_s0", "repvit_m0_9", "fastvit_t8"]


def calibrated(name, image):
    torch.manual_seed(0)
    model = (NETWORKS[name]() if name in NETWORKS else timm.create_model(name, pretrained=False)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.3
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    for name, parameter in model.named_parameters():
        if "gamma" in name or "scale" in name:  # layer scale starts near zero, where mistakes would not show
            torch.nn.init.uniform_(parameter, 0.1, 0.5)
    with torch.no_grad():
        for _ in range(8):
            model(torch.randn(4, 3, image, image))
    return model.eval()


def export(model, path, image, batch=None):
    """With a batch of any size, or of `batch` (TorchScript fixes it where DBB writes its borders)."""
    torch.onnx.export(
        model, (torch.randn(batch or 2, 3, image, image),), str(path), input_names=["x"], output_names=["y"], opset_version=17,
        dynamo=False, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
        dynamic_axes=None if batch else {"x": {0: "N"}, "y": {0: "N"}})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--image", type=int, default=96)
    parser.add_argument("names", nargs="*", default=NAMES)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or NAMES:
        model = calibrated(name, arguments.image)
        export(model, arguments.folder / f"{name}.onnx", arguments.image, batch=2 if name == "dbb" else None)
        if name in NETWORKS:
            continue
        export(reparameterize_model(model).eval(), arguments.folder / f"{name}.timm.onnx", arguments.image)


if __name__ == "__main__":
    main()
