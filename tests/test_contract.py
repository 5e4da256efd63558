"""Bounds of layers that are no sums of products against their formulas in plain Python; infinities; tiny numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from refstack import ops
from refstack.contract import EXP_ULPS, TINY, U, bound, gamma
from refstack.formats import Array, Csr, Dense, Ternary
from refstack.graph import Node
from refstack.kernels import Reorder
from refstack.reference import layer
from refstack.reference.engine import LAYERS

close = {"rtol": 1e-12, "atol": 0}


def g(n: int) -> float:
    """n*u / (1 - n*u)"""
    return n * 2.0**-24 / (1 - n * 2.0**-24)


def reals(*shape: int) -> Array:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("eps", [1e-5, 0.25])
@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm(eps: float, bias: bool) -> None:
    """gamma(8) (|a x| + |a mean| + |beta|), a = gamma / sqrt(var + eps)"""
    x, weight, mean, beta = reals(2, 3, 2, 2), reals(3), -reals(4)[1:], reals(5)[2:]
    var = np.array([0.5, 2, 0], np.float32)
    node = Node("y", ops.BatchNorm(eps), ("x",), Dense.encode(weight[:, None]), beta if bias else None, mean, var)
    found = bound(node, (x,))
    assert found.exact is False
    assert found.terms == 3
    for (n, c, h, w), limit in np.ndenumerate(found.limit):
        a = abs(float(weight[c])) / math.sqrt(float(var[c]) + eps)
        s = a * abs(float(x[n, c, h, w])) + a * abs(float(mean[c])) + (abs(float(beta[c])) if bias else 0)
        assert found.scale[n, c, h, w] == pytest.approx(s, rel=1e-12, abs=0)
        assert limit == pytest.approx(g(8) * s, rel=1e-12, abs=0)


@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_of_nothing(bias: bool) -> None:
    zero = np.zeros(2, np.float32)
    node = Node("y", ops.BatchNorm(1.0), ("x",), Dense.encode(zero[:, None]), zero if bias else None, zero, zero)
    found = bound(node, (reals(1, 2, 1, 1),))
    assert (found.limit == 8 * TINY).all()
    assert found.limit.dtype == found.scale.dtype == np.float64


@pytest.mark.parametrize(("op", "count"), [(ops.AvgPool2d((2, 3)), 6), (ops.GlobalAvgPool(), 20)])
def test_average(op: ops.Op, count: int) -> None:
    """gamma(count + 1) mean|x|"""
    x, node = reals(2, 3, 4, 5), Node("y", op, ("x",))
    found, mean = bound(node, (x,)), layer(node, np.abs(x).astype(np.float64))
    np.testing.assert_allclose(found.limit, g(count + 1) * mean, **close)
    np.testing.assert_allclose(found.scale, count * mean, **close)
    assert found.terms == count
    assert (bound(node, (0 * x,)).limit == TINY).all()


def test_softmax() -> None:
    """y u (d + sum p d + n + 4 E + 2), d = |x - max x| of the row"""
    x = np.array([[1, 2, -3, 0.5], [100, 90, 101, 101]], np.float32)
    found = bound(Node("y", ops.Softmax(), ("x",)), (x,))
    for row, limits, scales in zip(x.astype(np.float64).tolist(), found.limit, found.scale, strict=True):
        d = [max(row) - v for v in row]
        p = [math.exp(-v) / sum(math.exp(-w) for w in d) for v in d]
        shared = sum(a * b for a, b in zip(p, d, strict=True)) + 4 + 4 * EXP_ULPS + 2
        np.testing.assert_allclose(limits, [a * U * (b + shared) for a, b in zip(p, d, strict=True)], **close)
        np.testing.assert_allclose(scales, p, **close)
    assert found.terms == 4
    gone = bound(Node("y", ops.Softmax(), ("x",)), (np.array([[0, -1e30]], np.float32),))
    assert gone.limit[0, 1] == TINY


@pytest.mark.parametrize("node", [Node("y", Reorder("nchw", "nhwc"), ("x",)), Node("y", ops.ReLU(), ("x",))])
def test_equal_bits(node: Node) -> None:
    x = np.abs(reals(1, 2, 3, 4))
    found = bound(node, (x,))
    assert found.exact is True
    assert (found.limit, found.scale, found.terms) == (0, 0, 0)
    np.testing.assert_array_equal(found.value, x)


@dataclass(frozen=True)
class Unknown(ops.Op):
    name: ClassVar[str] = "unknown"


def test_a_layer_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYERS, Unknown, lambda node, x: x)
    with pytest.raises(TypeError, match=r"^y: no error bound is written down for unknown$"):
        bound(Node("y", Unknown(), ("x",)), (reals(1, 2),))


DENSE = Node("y", ops.Linear(1), ("x",), Dense.encode(np.array([[1, 0, 2]])))


def test_what_is_not_stored_annihilates_infinity() -> None:
    x = np.array([[3, np.inf, 4], [3, 5, 4], [3, 5, np.inf]], np.float32)
    sparse = bound(replace(DENSE, weight=Csr.encode(np.array([[1, 0, 2]]))), (x,))
    assert sparse.value.tolist() == [[11], [11], [np.inf]]
    assert sparse.scale.tolist() == [[11], [11], [3]]
    assert sparse.terms.tolist() == [[2], [2], [1]]
    dense = bound(DENSE, (x,))
    assert np.isnan(dense.value[0])
    assert dense.scale.tolist() == [[11], [11], [3]]


def test_infinities_of_both_signs_warn_of_nothing() -> None:
    x = np.array([np.inf, -np.inf], np.float32).reshape(1, 1, 1, 2)
    assert np.isnan(bound(Node("y", ops.AvgPool2d((1, 2)), ("x",)), (x,)).value).all()


def test_products_below_the_smallest_number() -> None:
    """Each may be lost whole: 2**-150 a product."""
    x = np.full((1, 3), 2.0**-149, np.float32)
    found = bound(DENSE, (x,))
    assert found.limit.item() == pytest.approx(2 * 2.0**-150 + float(gamma(2)) * 3 * 2.0**-149, rel=1e-9, abs=0)


@pytest.mark.parametrize(("scales", "s", "reach"), [((0.5, 0.25), [4.5, 3], [11, 8]), ((4, 2), [29, 17], [29, 17])])
@pytest.mark.parametrize("activation", [None, "relu6"])
def test_ternary_sums_reach_what_they_are_before_scaling(
    scales: tuple[float, float], s: list[float], reach: list[float], activation: ops.Activation | None
) -> None:
    """sum of |x|, or S = positive * 3 + negative * 8 + 1 where the scales are above one; infinity is left out."""
    weight = Ternary.encode(np.array([[scales[0], 0, -scales[1]]]))
    node = Node("y", ops.Linear(1, activation), ("x",), weight, np.array([-1], np.float32))
    found = bound(node, (np.array([[3, 5, 8], [np.inf, 5, 8]], np.float32),))
    assert found.scale.ravel().tolist() == s
    assert found.reach.ravel().tolist() == reach


def test_only_ternary_sums_reach_further_than_their_scale() -> None:
    found = bound(DENSE, (np.array([[3, 5, 4]], np.float32),))
    assert found.reach is found.scale
