"""Channel pruning: whole filters go, the tensors get smaller, no format is needed.

    score[k] = sum over c,r,s of |w'[k,c,r,s]|,  w' with batch-norm folded in;  every unit keeps its highest scores

Source      Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, ICLR 2017. Without retraining
Next: ternary.py
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refstack.compress.calibration import reestimate
from refstack.compress.layers import count, fraction, is_depthwise, layers
from refstack.formats import Array
from refstack.graph import Graph, Node
from refstack.ops import Add, Concat, Conv2d, Linear, Shape
from refstack.passes import fold_batchnorm, prepare, shrink_channels


def prune_channels(graph: Graph, level: float = 0.5, calibration: Array | None = None) -> Graph:
    """Remove the same share of channels from every prunable layer.

    Args
        level       share of each layer's output channels that goes, rounded down; at least one channel stays
        calibration images on which batch-norm statistics are taken anew, float32 (n, c, h, w); None keeps them
    Returns         Graph, folded and fused, with fewer channels
    """
    level = fraction("channel", level)
    folded = fold_batchnorm(graph)
    keep = {}
    for name in prunable(graph):
        weight = folded[name].weight
        assert weight is not None
        score = np.abs(weight.decode().astype(np.float64)).sum(axis=1)
        gone = min(count(level, len(score)), len(score) - 1)
        keep[name] = np.sort(np.argsort(score, kind="stable")[gone:])
    return prepare(reestimate(shrink_channels(graph, keep), calibration))


def prunable(graph: Graph) -> tuple[str, ...]:
    """Layers whose output channels may go: what reads them can do without, and the network's output stays whole.

    Channels that reach an addition or a concatenation stay: both sides would have to agree. So does the stem in
    front of a depthwise layer, as in the study. That leaves VGG's convolutions and first linear layer, the middle
    channels of ResNet's blocks, and MobileNet's pointwise convolutions.
    """
    shapes, units = graph.shapes(), []
    for i, node in enumerate(layers(graph)):
        readers = _readers(graph, node, shapes)
        stem = i == 0 and any(is_depthwise(reader, shapes) for reader in readers)
        whole = not readers or any(_needs_all(reader, shapes) for reader in (node, *readers))
        if not stem and not whole and not is_depthwise(node, shapes):
            units.append(node.name)
    return tuple(units)


def _readers(graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> list[Node]:
    """All that the node's channels pass through, up to and with what mixes them; none if they are the output."""
    found: list[Node] = []
    values = [node.name]
    while values:
        readers = graph.consumers(values.pop())
        if not readers:
            return []
        found += readers
        values += [r.name for r in readers if is_depthwise(r, shapes) or not isinstance(r.op, Conv2d | Linear | Add)]
    return found


def _needs_all(node: Node, shapes: Mapping[str, Shape]) -> bool:
    grouped = isinstance(node.op, Conv2d) and node.op.groups > 1 and not is_depthwise(node, shapes)
    return grouped or isinstance(node.op, Add | Concat)
