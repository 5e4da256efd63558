"""What one layer may give: the reference's value R, the scale S of its rounding errors, its terms, and the bound.

    |y - R| <= gamma(n + c) * S * (1 + 2**-20) + n * 2**-150,       gamma(n) = n*u / (1 - n*u),   u = 2**-24

    R  the reference in float64 on the same inputs        S  the same on absolute values, |W| |x| + |b|
    n  non-zero products of that output, plus the bias    c  roundings that a format adds (ternary: 2)

Any order of summation, any number of lanes, FMA or not, stays inside; nothing here is tuned. `textbook` is the loop
that every other evaluation is measured against: one product and one addition at a time, in float32.
Source      Higham: Accuracy and Stability of Numerical Algorithms, 2002, section 3.1
Next: compare.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from refstack import ops
from refstack.formats import Array, Dense, Int8, Ternary, activate
from refstack.graph import Node
from refstack.kernels import Reorder
from refstack.reference import layer
from refstack.reference.conv import unfold
from refstack.winograd import ALGORITHMS, Winograd

U = 2.0**-24
TINY = 2.0**-149
EXP_ULPS = 4.0
"""Error of float32 exp that softmax may rest on, in units in the last place (libm 1, NumPy's vectors 2.6)."""
ONE_ROUNDING = (ops.ReLU, ops.MaxPool2d, ops.Concat, ops.Flatten, ops.Add, ops.Quantize, Reorder)
SAMPLE = 4096
"""Outputs of a layer on which the textbook loop is run."""


def gamma(n: Array | float) -> Array:
    """n*u / (1 - n*u): the relative error of n roundings."""
    return np.asarray(n * U / (1 - n * U))


@dataclass(frozen=True, eq=False)
class Bound:
    """What is allowed, element by element (limit, scale and terms may be broadcast).

    value       R, float64 (or the only right answer, where `exact` asks for equal bits; -0 counts as 0)
    limit       the largest error allowed
    scale       S
    terms       n
    reach       what a partial sum may grow to: S, or more where a scale comes after the sum
    """

    value: Array
    limit: Array
    scale: Array
    terms: Array
    reach: Array
    exact: bool

    @property
    def indeterminate(self) -> Array:
        """Elements whose sum may overflow in one order and not in another: reach is the largest float32 or more."""
        reach = np.broadcast_to(self.reach, self.value.shape)
        return np.asarray(reach * (1 + 2.0**-10) >= np.finfo(np.float32).max)


def bound(node: Node, inputs: tuple[Array, ...], algorithm: str = "direct") -> Bound:
    """What `node` may give for these inputs (nchw, as the kernel saw them), computed in this way."""
    zero = np.zeros(())
    if isinstance(node.op, Reorder):
        return Bound(inputs[0], zero, zero, zero, zero, exact=True)
    if isinstance(node.op, ONE_ROUNDING) or isinstance(node.weight, Int8):
        return Bound(layer(node, *inputs), zero, zero, zero, zero, exact=True)
    x = inputs[0].astype(np.float64)
    with np.errstate(invalid="ignore"):
        limits = _transformed(node, x, ALGORITHMS[algorithm]) if algorithm in ALGORITHMS else _limit(node, x)
        return Bound(layer(node, x), *limits, _reach(node, x, limits[1]), exact=False)


def _limit(node: Node, x: Array) -> tuple[Array, Array, Array]:
    """The bound of docs/numerics for each layer that rounds, S (the same sum on absolute values), and n."""
    op = node.op
    if isinstance(op, ops.Conv2d | ops.Linear):
        return _sum_of_products(node, x)
    if isinstance(op, ops.BatchNorm):
        assert node.weight is not None and node.var is not None and node.mean is not None
        column = (-1, 1, 1)
        a = np.abs(node.weight.decode()[:, 0]) / np.sqrt(node.var.astype(np.float64) + op.eps)
        beta = np.zeros_like(a) if node.bias is None else np.abs(node.bias)
        a, mean, beta = (v.reshape(column) for v in (a, np.abs(node.mean), beta))
        s = a * np.abs(x) + a * mean + beta
        return gamma(8) * s + 8 * TINY, s, np.array(3)
    if isinstance(op, ops.AvgPool2d | ops.GlobalAvgPool):
        count = math.prod(op.kernel if isinstance(op, ops.AvgPool2d) else x.shape[2:])
        s = layer(node, np.abs(x))
        return gamma(count + 1) * s + TINY, s * count, np.array(count)
    if isinstance(op, ops.Softmax):
        y, d = layer(node, x), np.abs(x - x.max(axis=1, keepdims=True))
        terms = d + (y * d).sum(axis=1, keepdims=True) + x.shape[1] + 4 * EXP_ULPS + 2
        return y * U * terms + TINY, y, np.array(x.shape[1])
    raise TypeError(f"{node.name}: no error bound is written down for {op.name}")


def _sum_of_products(node: Node, x: Array) -> tuple[Array, Array, Array]:
    """gamma(n + c) * S * (1 + 2**-20) + n * 2**-150, S, n.

    S is that of the finite inputs: where others take part R is not finite, and must be met exactly or not at all.
    """
    assert node.weight is not None
    matrix, x = node.weight.decode(), np.where(np.isfinite(x), x, 0)
    linear_op = replace(node.op, activation=None)  # type: ignore[call-arg]
    bias = node.bias if node.bias is not None else np.zeros(matrix.shape[0], np.float32)
    absolute = replace(node, op=linear_op, weight=Dense.encode(np.abs(matrix)), bias=np.abs(bias))
    pattern = replace(node, op=linear_op, weight=Dense.encode(matrix != 0), bias=(bias != 0).astype(np.float32))
    s, n = layer(absolute, np.abs(x)), layer(pattern, (x != 0).astype(np.float64))
    return gamma(n + node.weight.roundings) * s * (1 + 2.0**-20) + n * 2.0**-150, s, n


def _transformed(node: Node, x: Array, algorithm: Winograd) -> tuple[Array, Array, Array]:
    """gamma(c + r) * S * (1 + 2**-20) + (c + r) * 2**-126, S, c for Winograd's algorithm of c channels, r roundings.

        S = |A'| ( sum over c of  (|G| |w| |G'|) * (|B'| |d| |B|) ) |A| + |bias|

    The transforms add and cancel numbers larger than the products, so S is some 7 (m = 2) or 55 (m = 4) times the
    direct sum's, and underflow is allowed for at every step.
    """
    op, weight, x = node.op, node.weight, np.where(np.isfinite(x), x, 0)
    assert isinstance(op, ops.Conv2d) and weight is not None
    _, k, p, q = op.shape(x.shape)
    w = np.abs(weight.decode()).reshape(k, -1, 3, 3)
    s = algorithm.absolute().conv2d(np.abs(x), w, op.padding, (p, q))
    if node.bias is not None:
        s = s + np.abs(node.bias.astype(np.float64))[:, None, None]
    n = np.array(x.shape[1] + (node.bias is not None))
    return gamma(n + algorithm.roundings) * s * (1 + 2.0**-20) + (n + algorithm.roundings) * 2.0**-126, s, n


def _reach(node: Node, x: Array, scale: Array) -> Array:
    """S, or for ternary weights, which are multiplied by their scale at the end, the sum of |x| if that is more."""
    weight = node.weight
    if not isinstance(weight, Ternary):
        return scale
    unscaled = replace(weight, scales=np.ones(2, np.float32))
    linear_op = replace(node.op, activation=None)  # type: ignore[call-arg]
    plain = replace(node, op=linear_op, weight=Dense.encode(np.abs(unscaled.decode())), bias=None)
    return np.maximum(scale, layer(plain, np.abs(np.where(np.isfinite(x), x, 0))))


def textbook(node: Node, x: Array, places: Array) -> Array:
    """What the plain loop gives at some outputs: acc = 0; for j: acc = acc + w[j] * x[j]; acc + bias, all in float32.

    Args        node    a convolution or linear layer, its weight in any float format
                x       float32, the layer's input          places  int64 (m,), flat positions in the output
    Returns     float32 (m,)
    Cost        m * cols steps, cols of them in Python
    """
    op, weight = node.op, node.weight
    assert weight is not None
    matrix, (rows, cols) = weight.decode(), weight.shape
    if isinstance(op, ops.Conv2d):
        n, k, p, q = op.shape(x.shape)
        image, row, pixel = np.unravel_index(places, (n, k, p * q))
        columns = unfold(x, op).reshape(op.groups, cols, -1)
        terms = columns[row // (rows // op.groups), :, image * p * q + pixel]
    else:
        image, row = np.unravel_index(places, (len(x), rows))
        terms = x[image]
    acc = np.zeros(len(places), np.float32)
    for j in range(cols):
        acc += matrix[row, j] * terms[:, j]
    if node.bias is not None:
        acc += node.bias[row]
    return activate(acc, op.activation)  # type: ignore[attr-defined]
