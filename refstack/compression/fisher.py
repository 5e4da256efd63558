"""Fisher pruning: channels go that cost much and that the loss would hardly miss.

    g[n,k]   = sum over p,q of  a[n,k,p,q] * dL[n]/da[n,k,p,q]      a: channel k of the layer's output, image n
    delta[k] = 1/(2N) * sum over n of g[n,k]**2                     what the loss would gain without channel k
    cost[k]  = share of all multiply-adds and parameters that goes with channel k
    remove the channels of smallest delta[k] - beta * cost[k], that is delta[k] < beta * cost[k]

delta is the second-order term of the loss in a factor on channel k (the first-order one vanishes after training),
with the empirical Fisher information in place of the Hessian. beta is raised until the network is as small as was
asked for: so channels go in the order of delta[k] / cost[k].

Layers that add up write the same channels (channel.py: units). The factor then is on channel k of all of them, and
g[n,k] sums over them too.

Channels leave a layer `multiple` at a time, the least missed first, and every layer keeps a multiple of that number:
kernels compute in blocks of channels, and a block costs the same half full.
Source      Theis, Korshunova, Tejani, Huszar: Faster Gaze Prediction With Dense Networks and Fisher Pruning, 2018
            (delta, and the penalty on multiply-adds); Liu, Zhang, Kuang, Zhou, Xue, Wang, Chen, Yang, Liao, Zhang:
            Group Fisher Pruning for Practical Network Compression, ICML 2021 (one factor for tied channels);
            beta by the target, and parameters in the cost, are ours
Next: ternary.py
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from refstack.compression.layers import fraction
from refstack.errors import UsageError
from refstack.formats import Array
from refstack.graph import Graph
from refstack.ops import BatchNorm, Conv2d, Linear
from refstack.passes import kept_channels

Keep = dict[str, Array]


def saliency(products: Array) -> Array:
    """delta of the formula.  products float (n, k), the sums g of every image  ->  float64 (k,)"""
    return np.square(products.astype(np.float64)).sum(axis=0) / (2 * len(products))


def costs(graph: Graph, unit: Sequence[str], multiple: int, weight_of_params: float) -> float:
    """What one channel of a unit costs: share of parameters and share of multiply-adds, weighed.

    Args
        unit                layers that lose the same channels; `multiple` of them are taken away to see
        weight_of_params    0: multiply-adds alone; 1: parameters alone
    """
    channels = width(graph, unit[0])
    fewer = min(multiple, channels - 1)
    params, macs = size(graph, dict.fromkeys(unit, np.arange(channels - fewer)))
    gone = weight_of_params * (1 - params / graph.params) + (1 - weight_of_params) * (1 - macs / graph.macs)
    return gone / max(1, fewer)


def size(graph: Graph, keep: Mapping[str, Array]) -> tuple[int, int]:
    """(parameters, multiply-adds) of the network that shrink_channels would make, without making it."""
    alive, shapes = kept_channels(graph, keep), graph.shapes()
    params = macs = 0
    for node in graph:
        if node.weight is None:
            continue
        source, (rows, cols) = node.inputs[0], (len(alive[node.name]), node.weight.shape[1])
        if not isinstance(node.op, BatchNorm) and not (isinstance(node.op, Conv2d) and node.op.groups > 1):
            cols = cols * len(alive[source]) // shapes[source][1]
        params += rows * cols + (0 if node.bias is None else rows)
        if isinstance(node.op, Conv2d | Linear):
            macs += rows * cols * math.prod(shapes[node.name][2:])
    return params, macs


def choose(
    graph: Graph,
    units: Mapping[str, Sequence[str]],
    scores: Mapping[str, Array],
    params: int,
    multiple: int = 8,
    cost: Mapping[str, float] | None = None,
) -> Keep:
    """Which channels stay, so that the network has at most `params` parameters, or as few as it can have.

    Args
        units       channel.units(graph) or some of them
        scores      unit -> float (channels,), what each is worth
        multiple    channels that leave a unit at a time; a unit's last ones stay
        cost        unit -> cost of a channel; None: scores alone decide
    Returns         layer -> indices of its channels that stay, rising
    Raises          UsageError  scores are not those of the graph's layers
    """
    groups = []  # (score of a group over its cost, unit, how many of the unit's channels are gone with it)
    order = {}
    for unit, score in scores.items():
        if len(score) != width(graph, unit):
            raise UsageError(f"{unit}: {len(score)} scores for {width(graph, unit)} channels")
        order[unit] = np.argsort(score, kind="stable")
        ranked, gone = np.asarray(score, np.float64)[order[unit]], 0
        for left in range((len(score) - 1) // multiple * multiple, 0, -multiple):
            worth = float(ranked[gone : len(score) - left].mean()) / (cost[unit] if cost else 1)
            gone = len(score) - left
            groups.append((worth, unit, gone))
    groups.sort(key=lambda group: group[0])  # stable, so a unit's groups stay in order

    def keep(number: int) -> Keep:
        gone = dict.fromkeys(scores, 0)
        for _, unit, count in groups[:number]:
            gone[unit] = max(gone[unit], count)
        return {layer: np.sort(order[unit][gone[unit] :]) for unit in scores for layer in units[unit]}

    few, many = 0, len(groups)
    while few < many:  # the fewest groups with which the network is small enough
        half = (few + many) // 2
        if size(graph, keep(half))[0] <= params:
            many = half
        else:
            few = half + 1
    return keep(few)


def ranks(scores: Mapping[str, Array]) -> dict[str, Array]:
    """Scores that lie evenly between 0 and 1 in every layer, so that `choose` takes the same share of each."""
    return {unit: (np.argsort(np.argsort(each, kind="stable")) + 1) / len(each) for unit, each in scores.items()}


def target(graph: Graph, level: float) -> int:
    """Parameters that are left when a share `level` of them is gone."""
    return round((1 - fraction("channel", level)) * graph.params)


def width(graph: Graph, unit: str) -> int:
    """Output channels of a layer."""
    weight = graph[unit].weight
    assert weight is not None
    return weight.shape[0]
