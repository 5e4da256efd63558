"""What every technique asks of a graph: its weighted layers in order, and the same graph with other weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from refstack.errors import UsageError
from refstack.formats import Weight
from refstack.graph import Graph, Node
from refstack.ops import Conv2d, Linear, Shape
from refstack.passes import depthwise


def layers(graph: Graph) -> list[Node]:
    """Convolutions and linear layers, in order."""
    return [node for node in graph if isinstance(node.op, Conv2d | Linear)]


def is_depthwise(node: Node, shapes: Mapping[str, Shape]) -> bool:
    """Whether every filter of the node sees one channel."""
    return depthwise(node.op, shapes[node.inputs[0]][1])


def fraction(technique: str, level: float) -> float:
    """`level`, or UsageError unless 0 <= level < 1."""
    if not isinstance(level, int | float) or not 0 <= level < 1:
        raise UsageError(f"{technique}: level is {level!r}, wanted a share of at least 0 and below 1")
    return float(level)


def count(share: float, of: int) -> int:
    """floor(share * of) for the decimal share that was meant: 0.29 of 100 is 29."""
    return int(share * of + 1e-9 * of)


def recode(graph: Graph, weights: Mapping[str, Weight] | type[Weight], names: Iterable[str] | None = None) -> Graph:
    """The graph with the weights given by node name, or with the named layers' weights (all, if None) in a format."""
    if isinstance(weights, type):
        chosen = set(names) if names is not None else {node.name for node in layers(graph)}
        matrices = {node.name: node.weight.decode() for node in graph if node.name in chosen and node.weight}
        weights = {name: weights.encode(matrix) for name, matrix in matrices.items()}
    return graph.with_nodes([replace(node, weight=weights.get(node.name, node.weight)) for node in graph])
