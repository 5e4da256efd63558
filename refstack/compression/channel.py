"""Channel pruning: whole filters go, the tensors get smaller, no format is needed.

    score[k] = sum over c,r,s of |w'[k,c,r,s]|,  w' with batch-norm folded in;  every unit keeps its highest scores

Source      Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, ICLR 2017. Without retraining
Next: fisher.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from refstack.compression.calibration import BATCH, check_images, compute, last_readers
from refstack.compression.layers import count, fraction, is_depthwise, layers
from refstack.formats import Array, Dense
from refstack.graph import INPUT, Graph
from refstack.ops import Add, Concat, Conv2d, Linear
from refstack.passes import kept_channels, prepare, shrink_channels

RIDGE = 1e-3  # of the mean square of a channel: keeps the solve apart from channels that say the same


def prune_channels(graph: Graph, level: float = 0.5, calibration: Array | None = None) -> Graph:
    """Remove the same share of channels from every prunable layer.

    Args
        level       share of each layer's output channels that goes, rounded down; at least one channel stays
        calibration images by which later layers learn to do without, float32 (n, c, h, w); None: they do not
    Returns         Graph, folded and fused, with fewer channels
    """
    level = fraction("channel", level)
    graph = prepare(graph)
    keep = {}
    for name in prunable(graph):
        weight = graph[name].weight
        assert weight is not None
        score = np.abs(weight.decode().astype(np.float64)).sum(axis=1)
        gone = min(count(level, len(score)), len(score) - 1)
        keep[name] = np.sort(np.argsort(score, kind="stable")[gone:])
    small = shrink_channels(graph, keep)
    return small if calibration is None else reconstruct(small, graph, kept_channels(graph, keep), calibration)


def reconstruct(small: Graph, whole: Graph, alive: Mapping[str, Array], images: Array) -> Graph:
    """Later layers make up for the channels that they lost: a lost channel is guessed from those that stay.

        x ~ G y         G = S + (x - S y) y^T (y y^T + ridge)^-1        w'[k] = w[k] G

    x holds the whole network's channels (c, n*h*w), y those that the small one computes, S puts each y in its place.
    Every layer that mixes channels is refitted in order, so that it also corrects what layers before it got wrong.

    Args        alive   kept_channels(whole, ...)       images  float32 (n, c, h, w), a few hundred at least
    Cost        one inference of n images in both networks, and a solve of c**3 a layer
    Source      He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, its second step
    """
    ours = {INPUT: check_images(whole, images)}
    theirs = dict(ours)
    shapes, nodes = whole.shapes(), []
    for (node, done), before in zip(last_readers(small), whole, strict=True):
        x, y = theirs[node.inputs[0]], ours[node.inputs[0]]
        if before.weight is not None and x.shape[1] > y.shape[1] and not is_depthwise(before, shapes):
            rows = before.weight.decode()[alive[node.name]].reshape(len(alive[node.name]), x.shape[1], -1)
            matrix = np.einsum("kct,cj->kjt", rows, _guess(x, y, alive[node.inputs[0]]))
            node = replace(node, weight=Dense.encode(matrix.reshape(len(rows), -1)))
        ours[node.name], theirs[node.name] = compute(node, ours), compute(before, theirs)
        nodes.append(node)
        for name in done:
            del ours[name], theirs[name]
    return small.with_nodes(nodes)


def _guess(x: Array, y: Array, kept: Array) -> Array:
    """G of the formula, float64 (channels of x, channels of y)."""
    own = np.eye(x.shape[1])[:, kept]
    products, rest = np.zeros((y.shape[1],) * 2), np.zeros((y.shape[1], x.shape[1]))
    for start in range(0, len(x), BATCH):
        whole, left = (np.moveaxis(each[start : start + BATCH], 1, 0).astype(np.float64) for each in (x, y))
        whole, left = whole.reshape(x.shape[1], -1), left.reshape(y.shape[1], -1)
        products += left @ left.T
        rest += left @ (whole - own @ left).T
    ridge = RIDGE * np.trace(products) / len(products) or 1.0  # channels that are all 0 need any
    return own + np.linalg.solve(products + ridge * np.eye(len(products)), rest).T


def prunable(graph: Graph) -> tuple[str, ...]:
    """Layers whose output channels may go one layer at a time: VGG's convolutions and first linear layer, the middle
    channels of ResNet's blocks, MobileNet's pointwise convolutions. As in the study.
    """
    return tuple(units(graph, streams=False))


def units(graph: Graph, streams: bool = True) -> dict[str, tuple[str, ...]]:
    """Layers whose output channels may go, and with each the layers that must lose the same ones.

    Layers whose outputs are added up write the same channels, a residual stream: channel k leaves all of them or none.
    Channels stay if the network's output has them, if a concatenation or a convolution of a few groups reads them, or
    if the stem writes them for a depthwise layer, as in the study. Depthwise layers follow what they read.

    Args        streams     False: channels that reach an addition stay as well
    Returns     first layer of a unit -> all of its layers, both in the graph's order
    """
    shapes, names = graph.shapes(), [node.name for node in layers(graph)]
    writers: dict[str, set[str]] = {INPUT: {INPUT}}  # value -> the layers that write its channels
    whole = {INPUT, graph.output}  # values that keep all of their channels
    for node in graph:
        sources = [writers[name] for name in node.inputs]
        if isinstance(node.op, Conv2d | Linear | Concat) and not is_depthwise(node, shapes):
            writers[node.name] = {node.name}
        else:
            joined = set().union(*sources)
            writers |= {name: joined for name, each in writers.items() if any(each is one for one in sources)}
            writers[node.name] = joined
        grouped = isinstance(node.op, Conv2d) and node.op.groups > 1 and not is_depthwise(node, shapes)
        if grouped or isinstance(node.op, Concat) or (isinstance(node.op, Add) and not streams):
            whole |= {node.name, *node.inputs}
        if is_depthwise(node, shapes) and writers[node.name] == {names[0]}:
            whole.add(node.name)
    stay = set().union(*(writers[name] for name in whole))
    found = {name: tuple(each for each in names if each in writers[name]) for name in names}
    return {name: tied for name, tied in found.items() if tied and tied[0] == name and name not in stay}
