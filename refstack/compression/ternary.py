"""Ternary weights: two bits each and two scales a layer.

    delta = level * max|w|      w'[i] = +Wp if w[i] > delta,  -Wn if w[i] < -delta,  else 0
    Wp = mean of w over w > delta      Wn = mean of -w over w < -delta

In one shot the scales are those means. Trained, they are learned beside the full-precision weights w that lie behind,
counted in units of u, the layer's mean |w| beyond the threshold at the start, so that both start near 1:

    w'     = +u*Wp where w > delta,  -u*Wn where w < -delta,  else 0                              g = dL/dw'
    dL/dWp = u * sum of g over w > delta          dL/dWn = - u * sum of g over w < -delta
    dL/dw  = Wp * g where w > delta,  Wn * g where w < -delta,  g elsewhere

Wn enters w' with a minus, so its gradient does too.
Source      Zhu, Han, Mao, Dally: Trained Ternary Quantization, ICLR 2017; the means that start it: Li, Zhang, Liu:
            Ternary Weight Networks, 2016
Next: quantize.py
"""

from __future__ import annotations

from typing import NamedTuple

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
    out = np.zeros_like(matrix)
    for where in _signs(matrix, level):
        if where.any():
            out[where] = matrix[where].mean(dtype=np.float64)
    return out


class Gradients(NamedTuple):
    """By the latent weights, (rows, cols), and by the two scales."""

    latent: Array
    positive: float
    negative: float


def start(latent: Array, level: float) -> tuple[float, float, float]:
    """(u, Wp, Wn) at the start: both signs have the scale that `threshold` gives them, or 1 if no weight is beyond."""
    above, below = _signs(latent, level)
    size = np.abs(latent.astype(np.float64))
    unit = size[above | below].mean() if (above | below).any() else 1.0
    positive, negative = (size[where].mean() / unit if where.any() else 1.0 for where in (above, below))
    return float(unit), float(positive), float(negative)


def quantise(latent: Array, unit: float, positive: float, negative: float, level: float) -> Array:
    """w' of the formula with given scales.  latent float (rows, cols) -> same shape and dtype"""
    above, below = _signs(latent, level)
    return (unit * (positive * above - negative * below)).astype(latent.dtype)


def gradients(g: Array, latent: Array, unit: float, positive: float, negative: float, level: float) -> Gradients:
    """What training goes down: the formulas above for g = dL/dw' (rows, cols)."""
    above, below = _signs(latent, level)
    factor = np.where(above, positive, np.where(below, negative, 1))
    return Gradients(factor * g, float(unit * g[above].sum()), -float(unit * g[below].sum()))


def _signs(latent: Array, level: float) -> tuple[Array, Array]:
    """Where w > delta, where w < -delta."""
    delta = latent.dtype.type(level) * np.abs(latent).max(initial=0)
    return latent > delta, latent < -delta
