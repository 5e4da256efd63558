"""A network: nodes in the order in which they run.

Graphs are values: a technique or pass takes one and returns another. Shapes are for one image, batch is the plan's.
Next: reference/engine.py
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refstack.errors import FormatError, ShapeError
from refstack.formats import Array, Int8, Weight
from refstack.formats.base import require_finite
from refstack.ops import BatchNorm, Conv2d, Linear, Op, Quantize, Shape

INPUT = "input"
"""The name by which nodes refer to the network's input."""


@dataclass(frozen=True, eq=False)
class Node:
    """One layer: what it computes, what it reads, what it holds.

    weight      Weight (rows, cols) for conv2d and linear; for batchnorm the gammas as a (c, 1) matrix
    bias        float32 (rows,) or None
    mean, var   float32 (c,), batchnorm's running statistics
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    weight: Weight | None = None
    bias: Array | None = None
    mean: Array | None = None
    var: Array | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in order, each reading the network's input or nodes before it; the last one is the output.

    input_shape     (c, h, w) of one image
    meta            free facts about where the weights come from (model, technique, sha256, accuracy ...)
    """

    name: str
    input_shape: Shape
    nodes: tuple[Node, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def output(self) -> str:
        """Name of the last node, whose value is the network's."""
        return self.nodes[-1].name

    def shapes(self, batch: int = 1) -> dict[str, Shape]:
        """Shape of the input and of every node's output. ShapeError names the node that does not fit."""
        shapes: dict[str, Shape] = {INPUT: (batch, *self.input_shape)}
        for node in self.nodes:
            try:
                shapes[node.name] = node.op.shape(*(shapes[name] for name in node.inputs))
            except ShapeError as error:
                raise ShapeError(f"{self.name}.{node.name}: {error}") from None
        return shapes

    def dtypes(self) -> dict[str, type[np.generic]]:
        """int8 or float32 for the input and every node's output."""
        dtypes: dict[str, type[np.generic]] = {INPUT: np.float32}
        for node in self.nodes:
            if isinstance(node.op, Quantize) or (isinstance(node.weight, Int8) and node.weight.output):
                dtypes[node.name] = np.int8
            elif node.weight is not None:
                dtypes[node.name] = np.float32
            else:
                dtypes[node.name] = dtypes[node.inputs[0]]
        return dtypes

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read `name`."""
        return [node for node in self.nodes if name in node.inputs]

    @property
    def macs(self) -> int:
        """Multiply-adds of one image, dense and with padding counted."""
        shapes = self.shapes()
        return sum(node.op.macs(*(shapes[name] for name in node.inputs)) for node in self.nodes)

    @property
    def params(self) -> int:
        """Number of learned parameters: weights, biases, batch-norm scales and shifts."""
        count = 0
        for node in self.nodes:
            count += node.weight.shape[0] * node.weight.shape[1] if node.weight is not None else 0
            count += node.bias.size if node.bias is not None else 0
        return count

    @property
    def nnz(self) -> int:
        """Weights that are not zero, over all convolutions and linear layers."""
        return sum(node.weight.nnz for node in self.nodes if node.weight and isinstance(node.op, Conv2d | Linear))

    @property
    def stored_bytes(self) -> int:
        """Bytes of all encodings, biases and statistics."""
        count = 0
        for node in self.nodes:
            count += node.weight.nbytes if node.weight is not None else 0
            count += sum(array.nbytes for array in (node.bias, node.mean, node.var) if array is not None)
        return count

    def sha256(self) -> str:
        """Identity of what is computed: ops, wiring and every stored byte."""
        digest = hashlib.sha256(repr((self.input_shape,)).encode())
        for node in self.nodes:
            grids = [getattr(node.weight, grid, None) for grid in ("input", "output")]
            digest.update(repr((node.name, node.op, node.inputs, grids)).encode())
            arrays = node.weight.arrays() if node.weight is not None else {}
            for array in (*arrays.values(), node.bias, node.mean, node.var):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def with_nodes(self, nodes: Iterator[Node] | tuple[Node, ...] | list[Node], **meta: Any) -> Graph:
        """The same graph with other nodes, and `meta` updated."""
        return replace(self, nodes=tuple(nodes), meta={**self.meta, **meta})

    def check(self) -> None:
        """ShapeError or FormatError naming the node unless wiring, shapes and values are sound."""
        seen = {INPUT}
        if not self.nodes:
            raise ShapeError(f"{self.name}: the graph has no nodes")
        for node in self.nodes:
            where = f"{self.name}.{node.name}"
            if node.name in seen:
                raise ShapeError(f"{where}: the name is used twice")
            missing = [name for name in node.inputs if name not in seen]
            if missing or not node.inputs or (node.op.arity >= 0 and len(node.inputs) != node.op.arity):
                count = node.op.arity if node.op.arity >= 0 else "one or more"
                raise ShapeError(
                    f"{where}: {node.op.name} reads {node.inputs}; wanted {count} nodes that stand before it"
                )
            seen.add(node.name)
        shapes = self.shapes()
        for node in self.nodes:
            _check_arrays(f"{self.name}.{node.name}", node, node.op.weight_shape(*(shapes[i] for i in node.inputs)))


def _check_arrays(where: str, node: Node, wanted: tuple[int, int] | None) -> None:
    got = node.weight.shape if node.weight is not None else None
    if got != wanted:
        raise ShapeError(f"{where}: weight is {got}, {node.op.name} wants {wanted} (rows, cols)")
    if node.weight is not None:
        try:
            node.weight.check()
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from None
    for name in ("bias", "mean", "var"):
        array = getattr(node, name)
        if array is None:
            if name != "bias" and isinstance(node.op, BatchNorm):
                raise ShapeError(f"{where}: batchnorm needs {name}")
            continue
        if wanted is None or array.shape != wanted[:1] or array.dtype != np.float32:
            raise ShapeError(f"{where}: {name} is {array.dtype} {array.shape}, wanted float32 {wanted and wanted[:1]}")
        require_finite(array, f"{where}.{name}")
    if node.var is not None and (node.var < 0).any():
        raise ShapeError(f"{where}: var is negative at channel {int(np.argmax(node.var < 0))}")
