"""int8 networks in the form that runtimes turn into integer kernels: float operators between QuantizeLinear and
DequantizeLinear.

    value of an int8 layer = DequantizeLinear(QuantizeLinear(float operator on dequantized values))

`refstack export` writes the integer operators themselves (onnx_graph.py), which leave no runtime a choice. But OpenVINO
and DeepSparse do not take those, and ONNX Runtime has slow kernels for them; a peer deserves its best form.
Values are uint8, int8 plus 128: after ReLU the zero point is 0, and processors multiply uint8 by int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from refstack import onnx_graph, reference
from refstack.compression.quantize import grid
from refstack.formats import Array, Int8, Quant
from refstack.graph import INPUT, Graph, Node
from refstack.onnx_graph import Writer, window
from refstack.ops import Add, Conv2d, Flatten, Linear, MaxPool2d, Quantize


class Form:
    """Writes one node after the other; remembers the grids that values lie on.

    Args        further     grids of values that the network keeps in float32
    """

    def __init__(self, further: Mapping[str, Quant]) -> None:
        self.further = further
        self.grids: dict[str, Quant] = {}
        self.same: dict[str, str] = {}

    def __call__(self, writer: Writer, node: Node) -> None:
        """One layer. Its value, a float tensor, has the node's name."""
        node, grid = replace(node, inputs=tuple(self.same.get(name, name) for name in node.inputs)), self._grid(node)
        if isinstance(node.op, Quantize) and grid == self.grids.get(node.inputs[0]):
            self.same[node.name] = node.inputs[0]  # it lies on that grid already
            return
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
        if node.name in self.further:
            return self.further[node.name]
        if isinstance(node.op, Quantize):
            return Quant(node.op.scale, node.op.zero_point)
        if isinstance(node.weight, Int8):
            return node.weight.output
        return self.grids.get(node.inputs[0]) if isinstance(node.op, MaxPool2d | Flatten) else None


def additions(graph: Graph, x: Array) -> dict[str, Quant]:
    """Grids by which additions and what they add are int8 as well, with ranges from `x`; empty where there are none.

    refstack keeps them in float32 (docs/decisions/0002). ONNX Runtime and DeepSparse have integer kernels only for
    layers whose output is rounded too, so for them this is the faster form.
    """
    added = {name for node in graph if isinstance(node.op, Add) for name in (node.name, *node.inputs)}
    values = reference.trace(graph, x) if added else {}
    grids = {node.name: grid(values[node.name]) for node in graph if node.name in added}
    read = {node.inputs[0]: Quant(node.op.scale, node.op.zero_point) for node in graph if isinstance(node.op, Quantize)}
    return grids | {name: read[name] for name in grids if name in read}


def rounded(graph: Graph, x: Array, further: Mapping[str, Quant]) -> Array:
    """The network's output when those values are rounded as well, in x's own precision."""
    values = {INPUT: x}
    for node in graph:
        y = reference.layer(node, *(values[name] for name in node.inputs))
        if at := further.get(node.name):
            y = (at.scale * (at.quantize(y).astype(x.dtype) - at.zero_point)).astype(x.dtype)
        values[node.name] = y
    return values[graph.output]


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
