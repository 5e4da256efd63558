"""int8 networks in the form that runtimes turn into integer kernels: float operators between QuantizeLinear and
DequantizeLinear.

    value of an int8 layer = DequantizeLinear(QuantizeLinear(float operator on dequantized values))

`refstack export` writes the integer operators themselves (onnx_graph.py), which leave no runtime a choice. But OpenVINO
and DeepSparse do not take those, and ONNX Runtime has slow kernels for them; a peer deserves its best form.
Values are uint8, int8 plus 128: after ReLU the zero point is 0, and processors multiply uint8 by int8.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refstack import onnx_graph
from refstack.formats import Array, Int8, Quant
from refstack.graph import Node
from refstack.onnx_graph import Writer, window
from refstack.ops import Conv2d, Linear, Quantize


class Form:
    """Writes one node after the other; remembers the grids that values lie on."""

    def __init__(self) -> None:
        self.grids: dict[str, Quant] = {}

    def __call__(self, writer: Writer, node: Node) -> None:
        """One layer. Its value, a float tensor, has the node's name."""
        grid = self._grid(node)
        source = f"{node.name}:real" if grid else node.name
        if isinstance(node.op, Quantize):
            source = node.inputs[0]
        elif isinstance(node.weight, Int8):
            layer(writer, replace(node, name=source), node.weight)
        else:
            onnx_graph.write(writer, replace(node, name=source))
        if grid:
            self.grids[node.name] = grid
            steps = [
                writer.constant(f"{node.name}:scale", np.float32(grid.scale)),
                writer.constant(f"{node.name}:zero", np.uint8(grid.zero_point + 128)),
            ]
            rounded = writer.emit("QuantizeLinear", [source, *steps], f"{node.name}:rounded")
            writer.emit("DequantizeLinear", [rounded, *steps], node.name)

    def _grid(self, node: Node) -> Quant | None:
        """Of its value; None if that stays float."""
        if isinstance(node.op, Quantize):
            return Quant(node.op.scale, node.op.zero_point)
        if isinstance(node.weight, Int8):
            return node.weight.output
        return self.grids.get(node.inputs[0])  # max-pool and flatten move numbers


def layer(writer: Writer, node: Node, weight: Int8) -> None:
    """A convolution or linear layer on dequantized values, weights and bias."""
    op, name = node.op, node.name
    assert isinstance(op, Conv2d | Linear)
    values = weight.values.reshape(op.out_channels, -1, *op.kernel) if isinstance(op, Conv2d) else weight.values
    w = dequantized(writer, f"{name}:w", values, weight.scale)
    b = dequantized(writer, f"{name}:b", weight.integer_bias(node.bias), weight.unit)
    target = f"{name}:sum" if op.activation else name
    if isinstance(op, Conv2d):
        writer.emit("Conv", [node.inputs[0], w, b], target, group=op.groups, **window(op))
    else:
        writer.emit("Gemm", [node.inputs[0], w, b], target, transB=1)
    if op.activation:
        writer.activation(node, target)


def dequantized(
    writer: Writer,
    name: str,
    values: Array,
    scale: Array,
) -> str:
    """Integers of a scale for every row."""
    steps = [
        writer.constant(f"{name}:scale", scale),
        writer.constant(f"{name}:zero", np.zeros(len(scale), values.dtype)),
    ]
    return writer.emit("DequantizeLinear", [writer.constant(name, values), *steps], f"{name}:real", axis=0)
