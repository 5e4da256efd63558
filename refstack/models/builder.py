"""Writes a network down as a chain of layers; weights are drawn later (zoo.draw) or loaded."""

from __future__ import annotations

import numpy as np

from refstack import ops
from refstack.formats import Dense
from refstack.graph import INPUT, Graph, Node
from refstack.ops import Op, Shape


class Builder:
    """Each call adds a layer after `last`. Convolutions start with zero weights, batch-norm with the identity."""

    def __init__(self, name: str, input_shape: Shape) -> None:
        self.name, self.input_shape = name, input_shape
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: (1, *input_shape)}
        self.last = INPUT

    @property
    def channels(self) -> int:
        """Channels (or features) of the last layer's output."""
        return self.shapes[self.last][1]

    def at(self, name: str) -> Builder:
        """Go on from another layer."""
        self.last = name
        return self

    def append(self, name: str, op: Op, *inputs: str, bias: bool = False) -> Builder:
        """Add a node that reads `inputs` (the last layer if none are named)."""
        names = inputs or (self.last,)
        shapes = [self.shapes[i] for i in names]
        matrix = op.weight_shape(*shapes)
        zeros = None if matrix is None else np.zeros(matrix, np.float32)
        weight = None if zeros is None else Dense(zeros + isinstance(op, ops.BatchNorm))
        statistics = {}
        if matrix is not None and isinstance(op, ops.BatchNorm):
            statistics = {"mean": np.zeros(matrix[0], np.float32), "var": np.ones(matrix[0], np.float32)}
        offset = np.zeros(matrix[0], np.float32) if matrix is not None and bias else None
        self.nodes.append(Node(name, op, names, weight, offset, **statistics))
        self.shapes[name] = op.shape(*shapes)
        self.last = name
        return self

    def conv(self, name: str, width: int, size: int, stride: int = 1, padding: int = 0, groups: int = 1) -> Builder:
        """A square convolution without bias; batch-norm follows."""
        window = {"kernel": (size, size), "stride": (stride, stride), "padding": (padding,) * 4}
        return self.append(name, ops.Conv2d(**window, out_channels=width, groups=groups))  # type: ignore[arg-type]

    def linear(self, name: str, features: int) -> Builder:
        """A linear layer with bias."""
        return self.append(name, ops.Linear(features), bias=True)

    def batchnorm(self) -> Builder:
        """Batch-norm named after the layer it follows."""
        return self.append(f"{self.last}_bn", ops.BatchNorm(), bias=True)

    def relu(self) -> Builder:
        """ReLU named after the layer it follows."""
        return self.append(f"{self.last.removesuffix('_bn')}_relu", ops.ReLU())

    def maxpool(self, name: str, size: int) -> Builder:
        """Square max-pool whose stride is its size."""
        return self.append(name, ops.MaxPool2d((size, size), (size, size)))

    def globalavgpool(self) -> Builder:
        """Mean of each channel's plane."""
        return self.append("avgpool", ops.GlobalAvgPool())

    def flatten(self) -> Builder:
        """Images to vectors."""
        return self.append("flatten", ops.Flatten())

    def add(self, name: str, x0: str, x1: str) -> Builder:
        """Residual addition."""
        return self.append(name, ops.Add(), x0, x1)

    def graph(self) -> Graph:
        """The finished network."""
        return Graph(self.name, self.input_shape, tuple(self.nodes))
