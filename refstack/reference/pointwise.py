"""Layers that touch each number once, and those that only move numbers.

Next: run.py
"""

from __future__ import annotations

import numpy as np

from refstack.errors import UsageError
from refstack.formats import Array, Quant, activate
from refstack.ops import Add, Concat, Flatten, Quantize, ReLU


def relu(x: Array, op: ReLU) -> Array:
    """y = max(x, 0), and min(that, 6) for relu6; NaN stays NaN.  Any shape and float dtype. Bitwise."""
    return activate(x, op.activation)


def add(x0: Array, x1: Array, op: Add) -> Array:
    """y = activation(x0 + x1).  Equal shapes, float. One rounding, so bitwise."""
    op.shape(x0.shape, x1.shape)
    return activate(x0 + x1, op.activation)


def concat(*xs: Array, op: Concat) -> Array:
    """y[n] = x0[n], x1[n], ... one after the other along the channels.  Any dtype. Bitwise."""
    op.shape(*(x.shape for x in xs))
    return np.concatenate(xs, axis=1)


def flatten(x: Array, op: Flatten) -> Array:
    """y[n, c*h*w] = x[n,c,h,w], read in that order.  Any dtype. Bitwise."""
    return x.reshape(op.shape(x.shape))


def quantize(x: Array, op: Quantize) -> Array:
    """q = clamp(round_half_even(x / scale) + zero_point) in float64.  float -> int8, same shape. Bitwise.

    Raises      UsageError when x has a NaN, which no int8 stands for
    """
    if np.isnan(x).any():
        raise UsageError("quantize: the input has a NaN, which no int8 value stands for")
    return Quant(op.scale, op.zero_point).quantize(x)
