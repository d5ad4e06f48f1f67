"""Writes a LLaMA-shaped decoder with seeded random weights in external data, without ever holding more than one of them.

    python benchmarks/make_decoder.py OUT.onnx [--layers 16] [--width 2048] [--ffn 5632] [--vocab 32000] [--sparse] [--seed 0]

The defaults give about 3.8 GB of float32. With --sparse the data file is one hole (all weights are 0): a large file that takes
no room, to measure memory with."""

import argparse
import os
import pathlib

import numpy as np
from onnx import TensorProto, helper


class Writer:
    """Appends tensors to the data file and remembers where they lie."""

    def __init__(self, path, sparse=False, seed=0):
        self.sparse = sparse
        self.name = path.name + ".data"
        self.file = open(path.with_name(self.name), "wb")
        self.rng = np.random.default_rng(seed)
        self.tensors = []

    def add(self, name, shape, scale):
        offset = -(-self.file.tell() // 4096) * 4096
        self.file.seek(offset)
        length = 0
        if self.sparse:
            length = int(np.prod(shape)) * 4
            self.file.truncate(offset + length)
            self.file.seek(offset + length)
        for row in range(0, 0 if self.sparse else shape[0], 1024):
            part = (min(1024, shape[0] - row), *shape[1:])
            length += self.file.write((self.rng.standard_normal(part, dtype=np.float32) * np.float32(scale)).tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def small(self, name, array):
        self.tensors.append(helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape,
                                               array.tobytes(), raw=True))
        return name


def build(path, layers, width, ffn, vocab, sparse=False, seed=0, heads=16):
    writer = Writer(path, sparse, seed)
    nodes = []
    head = width // heads

    def node(op, *inputs, **attributes):
        name = f"{op}_{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], name=f"/n{len(nodes)}/{op}", **attributes))
        return name

    two = writer.small("two", np.array(2, np.float32))
    epsilon = writer.small("epsilon", np.array(1e-5, np.float32))
    split = writer.small("split", np.array([0, 0, heads, head], np.int64))
    join = writer.small("join", np.array([0, 0, width], np.int64))
    scale = writer.small("scale", np.array(head**-0.5, np.float32))

    def norm(x, name):
        variance = node("ReduceMean", node("Pow", x, two), axes=[-1])
        return node("Mul", node("Div", x, node("Sqrt", node("Add", variance, epsilon))), writer.small(name, np.ones(width, np.float32)))

    def linear(x, name, rows, columns):
        return node("MatMul", x, writer.add(name, (rows, columns), rows**-0.5))

    def by_heads(x, perm):
        return node("Transpose", node("Reshape", x, split), perm=perm)

    x = node("Gather", writer.add("embedding", (vocab, width), 1.0), "tokens")
    for i in range(layers):
        h = norm(x, f"layer{i}.norm1")
        q = by_heads(linear(h, f"layer{i}.q", width, width), [0, 2, 1, 3])
        k = by_heads(linear(h, f"layer{i}.k", width, width), [0, 2, 3, 1])
        v = by_heads(linear(h, f"layer{i}.v", width, width), [0, 2, 1, 3])
        weights = node("Softmax", node("Mul", node("MatMul", q, k), scale), axis=-1)
        mixed = node("Reshape", node("Transpose", node("MatMul", weights, v), perm=[0, 2, 1, 3]), join)
        x = node("Add", x, linear(mixed, f"layer{i}.o", width, width))
        h = norm(x, f"layer{i}.norm2")
        gate = linear(h, f"layer{i}.gate", width, ffn)
        up = linear(h, f"layer{i}.up", width, ffn)
        x = node("Add", x, linear(node("Mul", node("Mul", gate, node("Sigmoid", gate)), up), f"layer{i}.down", ffn, width))
    logits = linear(norm(x, "norm"), "head", width, vocab)
    graph = helper.make_graph(
        nodes, "decoder", [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", "length", vocab])], writer.tensors)
    writer.file.close()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=5632)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the weights: models to merge differ in it")
    arguments = parser.parse_args()
    build(arguments.out, arguments.layers, arguments.width, arguments.ffn, arguments.vocab, arguments.sparse,
          arguments.seed)
    total = os.path.getsize(arguments.out) + os.path.getsize(str(arguments.out) + ".data")
    print(f"{arguments.out}: {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
