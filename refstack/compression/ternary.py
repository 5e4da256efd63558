"""Ternary weights: two bits each and two scales a layer.

    delta = level * max|w|      w'[i] = +Wp if w[i] > delta,  -Wn if w[i] < -delta,  else 0
    Wp = mean of w over w > delta      Wn = mean of -w over w < -delta

Source      Zhu, Han, Mao, Dally: Trained Ternary Quantization, ICLR 2017, its threshold; the scales are the means that
            start its training (Li, Zhang, Liu: Ternary Weight Networks, 2016). One shot, no training
Next: quantize.py
"""

from __future__ import annotations

import numpy as np

from refstack.compression.calibration import reestimate
from refstack.compression.layers import fraction, layers, recode
from refstack.formats import Array, Dense, Ternary
from refstack.graph import Graph
from refstack.passes import prepare


def ternarize(graph: Graph, level: float = 0.05, calibration: Array | None = None) -> Graph:
    """Ternary weights for all but the first convolution and the last layer, which stay as they are.

    Batch-norm after a ternary layer stays a node of its own: folded, it would give every row another scale.

    Args
        level       t: the threshold as a share of the layer's largest weight
        calibration images on which batch-norm statistics are taken anew, float32 (n, c, h, w); None keeps them
    Returns         Graph, folded and fused where weights are dense
    """
    level = fraction("ternary", level)
    chosen = layers(graph)[1:-1]
    matrices = {node.name: threshold(node.weight.decode(), level) for node in chosen if node.weight is not None}
    dense = recode(graph, {name: Dense(matrix) for name, matrix in matrices.items()})
    return prepare(recode(reestimate(dense, calibration), Ternary, matrices))


def threshold(matrix: Array, level: float) -> Array:
    """w' of the formula, float32. A sign that no weight has gets no scale."""
    delta = np.float32(level) * np.abs(matrix).max(initial=0)
    above, below = matrix > delta, matrix < -delta
    out = np.zeros_like(matrix)
    for where in (above, below):
        if where.any():
            out[where] = matrix[where].mean(dtype=np.float64)
    return out
