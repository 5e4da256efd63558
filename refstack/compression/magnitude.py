"""Weight pruning: the smallest weights become zeros that are not stored.

    w'[i] = w[i] if |w[i]| is among the (1 - level) largest of its layer, else 0

Source      Han, Pool, Tran, Dally: Learning both Weights and Connections, NIPS 2015; the rule, without retraining
Next: masks.py
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from refstack.compression.calibration import reestimate
from refstack.compression.layers import count, fraction, is_depthwise, layers, recode
from refstack.errors import UsageError
from refstack.formats import Array, Csr, Dense
from refstack.graph import Graph
from refstack.passes import prepare


def prune_weights(
    graph: Graph, level: float = 0.9, scope: Literal["layer", "global"] = "layer", calibration: Array | None = None
) -> Graph:
    """Magnitude pruning in one shot, stored as CSR.

    The first convolution stays dense, as in the study, and so do depthwise convolutions: they hold one weight in a
    hundred of MobileNet's, nine a filter.

    Args
        level       sparsity: the share of a layer's weights that goes, rounded down to whole weights
        scope       "layer": every layer loses that share; "global": the smallest of all layers go
        calibration images on which batch-norm statistics are taken anew, float32 (n, c, h, w); None keeps them
    Returns         Graph, folded and fused
    """
    level = fraction("weight", level)
    if scope not in ("layer", "global"):
        raise UsageError(f"weight: scope {scope!r}, wanted layer or global")
    shapes = graph.shapes()
    names = [node.name for node in layers(graph)[1:] if not is_depthwise(node, shapes)]
    matrices = {node.name: node.weight.decode() for node in graph if node.name in names and node.weight is not None}
    if scope == "layer":
        pruned = {name: Dense(smallest_to_zero(matrix, level)) for name, matrix in matrices.items()}
    else:
        joined = smallest_to_zero(np.concatenate([matrix.ravel() for matrix in matrices.values()]), level)
        ends = np.cumsum([matrix.size for matrix in matrices.values()])[:-1]
        parts = zip(matrices, np.split(joined, ends), strict=True)
        pruned = {name: Dense(part.reshape(matrices[name].shape)) for name, part in parts}
    return recode(prepare(reestimate(recode(graph, pruned), calibration)), Csr, names)


def smallest_to_zero(weights: Array, level: float) -> Array:
    """A copy in which count(level, size) entries are set to 0, the smallest by magnitude; of equals the first."""
    k, size = count(level, weights.size), np.abs(weights).ravel()
    out = weights.copy()
    if k:
        largest = np.partition(size, k - 1)[k - 1]  # of those that go
        out.flat[size < largest] = 0
        out.flat[np.flatnonzero(size == largest)[: k - np.count_nonzero(size < largest)]] = 0
    return out
