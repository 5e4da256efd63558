"""A whole inference engine: walk the nodes, keep the values.

`layer` computes one node, `run` a network. With float64 inputs the same code is the oracle of every check.
Next: formats/base.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refstack import ops
from refstack.errors import ShapeError
from refstack.formats import Array
from refstack.graph import INPUT, Graph, Node
from refstack.reference.conv import conv2d
from refstack.reference.linear import linear
from refstack.reference.norm import batchnorm, softmax
from refstack.reference.pointwise import add, concat, flatten, quantize, relu
from refstack.reference.pool import avgpool, globalavgpool, maxpool

LAYERS: dict[type[ops.Op], Callable[..., Array]] = {
    ops.Conv2d: lambda node, x: conv2d(x, node.weight, node.bias, node.op),
    ops.Linear: lambda node, x: linear(x, node.weight, node.bias, node.op),
    ops.BatchNorm: lambda node, x: batchnorm(x, node.weight, node.bias, node.mean, node.var, node.op),
    ops.ReLU: lambda node, x: relu(x, node.op),
    ops.MaxPool2d: lambda node, x: maxpool(x, node.op),
    ops.AvgPool2d: lambda node, x: avgpool(x, node.op),
    ops.GlobalAvgPool: lambda node, x: globalavgpool(x, node.op),
    ops.Add: lambda node, x0, x1: add(x0, x1, node.op),
    ops.Concat: lambda node, *xs: concat(*xs, op=node.op),
    ops.Flatten: lambda node, x: flatten(x, node.op),
    ops.Softmax: lambda node, x: softmax(x, node.op),
    ops.Quantize: lambda node, x: quantize(x, node.op),
}


def layer(node: Node, *inputs: Array) -> Array:
    """One node's output for these inputs, by the layer's formula."""
    return LAYERS[type(node.op)](node, *inputs)


def trace(graph: Graph, x: Array) -> dict[str, Array]:
    """Every value of the network for x, by node name (`input` is x itself)."""
    if x.shape[1:] != graph.input_shape:
        raise ShapeError(
            f"{graph.name}: input has shape {x.shape}, wanted (n, {', '.join(map(str, graph.input_shape))})"
        )
    values = {INPUT: x}
    for node in graph:
        values[node.name] = layer(node, *(values[name] for name in node.inputs))
    return values


def run(graph: Graph, x: Array) -> Array:
    """The network's output.

    Args        x   float32 (n, c, h, w), or float64 for the oracle
    Returns     (n, classes), same dtype
    """
    return trace(graph, np.asarray(x))[graph.output]
