"""Optimal-transport fusion of two ViTs, as a whole process each: onnxfold beside PyTorch with POT.

    python benchmarks/merge_speed.py A.onnx B.onnx DATA.npz [--samples 200] [--runs 3]

Needs an interpreter with torch, POT (pot), onnx and numpy, and build/release/cli/onnxfold. The models are ViTs as
torch.onnx (TorchScript) writes them with packed q, k and v, like samples/vit_a.onnx; DATA holds `pixels`. Method: soft maps from
activations of all positions, lambda 0.08, mean policy, separate maps of queries and keys. Both write a model and score nothing;
on the samples all weights but the class token (which has a map of its own in onnxfold) agree to 3e-7.
Wall time and CPU time (which other processes disturb less), medians."""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ONNXFOLD = pathlib.Path(__file__).resolve().parent.parent / "build/release/cli/onnxfold"


def fuse(first, second, data, samples, target):
    """The algorithm in PyTorch and POT; run in a process of its own."""
    import numpy as np
    import onnx
    import ot
    import torch
    import torch.nn.functional as F
    from onnx import numpy_helper

    images = torch.from_numpy(np.load(data)["pixels"][:samples])

    def load(path):
        """Parameters in the order in which the graph reads them: patch, class token, positions, blocks, norm, head."""
        model = onnx.load(path)
        values = {t.name: t for t in model.graph.initializer}
        order = []
        for node in model.graph.node:
            for name in node.input:
                if name in values and values[name].data_type == onnx.TensorProto.FLOAT and name not in order:
                    if np.prod(values[name].dims) > 1:
                        order.append(name)
        return model, values, order

    def tensors(loaded):
        _, values, order = loaded
        found = {"blocks": []}
        vectors = []
        for name in order:
            tensor = torch.from_numpy(numpy_helper.to_array(values[name]).copy())
            if tensor.ndim == 4:
                found["patch"] = (name, tensor)
            elif tensor.ndim == 3:
                found["class" if tensor.shape[1] == 1 else "positions"] = (name, tensor)
            else:
                vectors.append((name, tensor))
        conv_bias = [name for node in loaded[0].graph.node if node.op_type == "Conv" for name in node.input[2:]]
        found["patch_bias"] = next(v for v in vectors if v[0] in conv_bias)
        found["rest"] = [v for v in vectors if v[0] not in conv_bias]
        return found

    def blocks_of(found):
        """Norm gain, bias; qkv weight, bias; out weight, bias; norm; up; down — told by the shapes."""
        rest, width = list(found["rest"]), found["patch"][1].shape[0]
        matrices = [v for v in rest if v[1].ndim == 2]
        vectors = [v for v in rest if v[1].ndim == 1]
        depth = (len(matrices) - 1) // 4
        norms = [v for v in vectors if v[1].shape[0] == width and "norm" in v[0] or v[0].endswith(("norm1", "norm2"))]
        biases = [v for v in vectors if v not in norms]
        return matrices, norms, biases, depth

    def features(found, images):
        matrices, norms, biases, depth = blocks_of(found)
        patch, width = found["patch"][1], found["patch"][1].shape[0]
        x = F.conv2d(images, patch, found["patch_bias"][1], stride=patch.shape[2]).flatten(2).transpose(1, 2)
        taps = [x]
        x = torch.cat([found["class"][1].expand(x.shape[0], -1, -1), x], 1) + found["positions"][1]
        norm, heads = iter(v[1] for v in norms), 3
        bias = iter(v[1] for v in biases)
        for b in range(depth):
            qkv, out, up, down = (m[1] for m in matrices[4 * b : 4 * b + 4])
            y = F.layer_norm(x, (width,), next(norm), next(norm), 1e-6) @ qkv + next(bias)
            taps += list(y.split(width, -1))
            q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in y.split(width, -1))
            z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ out + next(bias)
            x = x + z
            h = F.layer_norm(x, (width,), next(norm), next(norm), 1e-6) @ up + next(bias)
            d = F.gelu(h) @ down + next(bias)
            taps += [z, h, d]
            x = x + d
        return [t.reshape(-1, t.shape[-1]).double() for t in taps]

    def plan(x, y):
        standard = lambda t: ((t - t.mean(0)) / t.std(0)).T.numpy()
        cost = ot.dist(standard(x), standard(y), metric="euclidean")
        uniform = lambda n: np.full(n, 1 / n)
        made = ot.sinkhorn(uniform(len(cost)), uniform(len(cost.T)), cost / cost.max(), 0.08, numItermax=1000)
        return torch.from_numpy(made * len(cost)).float()

    anchor_model = load(second)
    a, b = tensors(load(first)), tensors(anchor_model)
    with torch.no_grad():
        maps = [plan(x, y) for x, y in zip(features(a, images), features(b, images))]
        positions = plan(a["positions"][1][0].double(), b["positions"][1][0].double())
        matrices, norms, biases, depth = blocks_of(a)
        theirs = blocks_of(b)
        made = {b["patch"][0]: torch.einsum("oi,o...->i...", maps[0], a["patch"][1]), b["patch_bias"][0]: a["patch_bias"][1] @ maps[0]}
        stream = (maps[0] + positions) / 2
        made[b["positions"][0]], made[b["class"][0]] = a["positions"][1] @ positions, a["class"][1] @ stream
        n, c = 0, 0
        for block in range(depth):
            q, k, v, o, h, d = maps[1 + 6 * block : 7 + 6 * block]
            weights = [m[1] for m in matrices[4 * block : 4 * block + 4]]
            inputs, outputs = [stream, v], [torch.block_diag(q, k, v), o]
            middle = (stream + o) / 2
            inputs += [middle, h]
            outputs += [h, d]
            for j in range(4):
                made[theirs[0][4 * block + j][0]] = inputs[j].T @ weights[j] @ outputs[j]
                made[theirs[2][c][0]] = biases[c][1] @ outputs[j]
                c += 1
            for gain_map in (stream, stream, middle, middle):
                made[theirs[1][n][0]] = norms[n][1] @ gain_map
                n += 1
            stream = (middle + d) / 2
        for left in range(n, len(norms)):
            made[theirs[1][left][0]] = norms[left][1] @ stream
        head = matrices[-1][1]
        made[theirs[0][-1][0]] = head @ stream if head.shape[1] == stream.shape[0] else stream.T @ head
        made[theirs[2][-1][0]] = biases[-1][1]
    for tensor in anchor_model[0].graph.initializer:
        if tensor.name in made:
            mean = (numpy_helper.to_array(tensor) + made[tensor.name].numpy()) / 2
            tensor.CopyFrom(numpy_helper.from_array(mean.astype(np.float32), tensor.name))
    onnx.save(anchor_model[0], target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("data")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fuse-to", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fuse_to:
        return fuse(arguments.first, arguments.second, arguments.data, arguments.samples, arguments.fuse_to)
    with tempfile.TemporaryDirectory() as folder:
        ours = [ONNXFOLD, "merge", arguments.first, arguments.second, "-o", f"{folder}/ours.onnx", "-f", "-q", "--no-check",
                "--method", "ot:policy=mean,positions=all", "--calibration", arguments.data, "--calibration-samples", arguments.samples]
        theirs = [sys.executable, __file__, arguments.first, arguments.second, arguments.data, "--samples", arguments.samples,
                  "--fuse-to", f"{folder}/theirs.onnx"]
        seconds = {"onnxfold": [], "PyTorch and POT": []}
        work = {"onnxfold": [], "PyTorch and POT": []}
        for _ in range(arguments.runs):
            for name, command in (("onnxfold", ours), ("PyTorch and POT", theirs)):
                before, start = os.times(), time.perf_counter()
                subprocess.run([str(part) for part in command], check=True)
                after = os.times()
                seconds[name].append(time.perf_counter() - start)
                used = after.children_user + after.children_system - before.children_user - before.children_system
                work[name].append(used)
        for label, measured in (("wall", seconds), ("CPU", work)):
            medians = {name: statistics.median(each) for name, each in measured.items()}
            for name, median in medians.items():
                print(f"{label:<5} {name:<16} {median:7.2f} s")
            print(f"{label:<5} ratio            {medians['PyTorch and POT'] / medians['onnxfold']:7.1f}")


if __name__ == "__main__":
    main()
