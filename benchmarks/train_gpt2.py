"""Trains and exports a small GPT-2 (the architecture of Hugging Face: learned positions, gelu_new, Conv1D, tied head).

    python benchmarks/train_gpt2.py kjv.txt FOLDER [--steps 1000] [--layers 6] [--width 384]

kjv.txt as Debian's bible-kjv-text prints it (bible -f ge1:1-re22:21), verse references are cut off. FOLDER gets gpt2.onnx
(exported over TorchScript: Gemm), gpt2_dynamo.onnx, and calibration.npz and valid.npz, windows of 128 tokens of the first 95 %
and the last 5 % of the text. Needs torch, transformers, tokenizers, onnxscript. Deterministic at one thread; nothing is downloaded."""

import argparse
import math
import pathlib
import re
import time

import numpy as np
import tokenizers
import torch
import transformers

CONTEXT = 128


def tokens_of(path, vocabulary):
    text = re.sub(r"(?m)^\S+:\d+ ", "", pathlib.Path(path).read_text(encoding="latin-1"))
    cut = len(text) * 95 // 100
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([text[:cut]], vocab_size=vocabulary, show_progress=False)
    head, tail = (np.array(bpe.encode(part).ids, np.int64) for part in (text[:cut], text[cut:]))
    print(f"{len(head)} tokens to learn from, {len(tail)} held out, {len(text) / (len(head) + len(tail)):.2f} bytes a token", flush=True)
    return head, tail


def windows(tokens, starts):
    return tokens[np.asarray(starts)[:, None] + np.arange(CONTEXT)]


def train(model, tokens, steps, rows, peak=1.2e-3):
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    draw, start, mean = np.random.default_rng(1), time.time(), None
    for step in range(steps):
        rate = peak * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = torch.from_numpy(windows(tokens, draw.integers(0, len(tokens) - CONTEXT, rows)))
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {mean:.3f}, {time.time() - start:.0f} s", flush=True)


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -1e9).triu(1), persistent=False)

    def forward(self, input_ids):  # mask given, because what makes it in transformers 5 has no TorchScript export
        length = input_ids.shape[1]
        mask = self.mask[:length, :length][None, None]
        return self.model(input_ids=input_ids, attention_mask=mask).logits


def export(model, folder):
    example = (torch.zeros(2, 32, dtype=torch.int64),)
    names = {"input_names": ["input_ids"], "output_names": ["logits"]}
    axes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "logits")}
    torch.onnx.export(Logits(model), example, str(folder / "gpt2.onnx"), dynamo=False, opset_version=17, dynamic_axes=axes, **names)
    shapes = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=CONTEXT)}}
    torch.onnx.export(Logits(model), example, str(folder / "gpt2_dynamo.onnx"), dynamo=True, external_data=False,
                      dynamic_shapes=shapes, **names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=2048)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    head, tail = tokens_of(arguments.text, arguments.vocabulary)
    draw = np.random.default_rng(2)
    np.savez(arguments.folder / "calibration.npz", input_ids=windows(head, draw.integers(0, len(head) - CONTEXT, 64)))
    np.savez(arguments.folder / "valid.npz", input_ids=windows(tail, np.arange(64) * ((len(tail) - CONTEXT) // 63)))
    config = transformers.GPT2Config(vocab_size=arguments.vocabulary, n_positions=CONTEXT, n_embd=arguments.width,
                                     n_layer=arguments.layers, n_head=arguments.width // 64, attn_implementation="eager",
                                     use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    checkpoint = arguments.folder / "gpt2.pt"
    if checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint))
    else:
        train(model, head, arguments.steps, arguments.rows)
        torch.save(model.state_dict(), checkpoint)
    model.eval()
    with torch.no_grad():
        valid = torch.from_numpy(np.load(arguments.folder / "valid.npz")["input_ids"])
        print(f"held-out perplexity {model(input_ids=valid, labels=valid).loss.exp():.2f}", flush=True)
        export(model, arguments.folder)


if __name__ == "__main__":
    main()
