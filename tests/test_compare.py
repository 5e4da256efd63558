"""The numeric contract itself: the bound by fractions, on both sides of its edge, and what never passes."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from strategies import tiny

from refstack import ops
from refstack.compare import check, rms_check
from refstack.contract import bound, gamma, textbook
from refstack.formats import Array, Csr, Dense, Ternary
from refstack.graph import Node
from refstack.reference import layer
from refstack.verification.cases import Problem
from refstack.verification.fills import inputs_of, node_of

U = Fraction(1, 2**24)
MATRIX = np.array([[1.5, 0, -2], [0, 0, 3]])
DENSE = Node("y", ops.Linear(2), ("x",), Dense.encode(MATRIX), np.array([0.5, 0], np.float32))
RELU = Node("y", ops.ReLU(), ("x",))
X = np.array([[1, 2, 0], [-1, 4, 8]], np.float32)


def exact_gamma(n: int) -> Fraction:
    return n * U / (1 - n * U)


def fractions(array: Array) -> list[Fraction]:
    return [Fraction(float(value)) for value in array.ravel()]


def test_gamma() -> None:
    for n in (0, 1, 27, 4608, 2**20):
        assert abs(Fraction(float(gamma(n))) - exact_gamma(n)) <= exact_gamma(n) / 2**50


@pytest.mark.parametrize(("format", "extra"), [("dense", 0), ("csr", 0), ("ternary", 2)])
@pytest.mark.parametrize("op", ["conv2d", "linear"])
def test_sums_of_products(op: str, format: str, extra: int) -> None:
    """limit = gamma(n + c) * S * (1 + 2**-20) + n * 2**-150, S and n by the oracle on absolute values and on ones."""

    @given(tiny(op, format))
    def compare(problem: Problem) -> None:
        node, (x,) = node_of(problem), inputs_of(problem)
        if op == "conv2d":
            window = (node.op.stride, node.op.padding, node.op.dilation, node.op.groups)
            matrix = node.weight.decode().reshape(node.op.out_channels, -1, *node.op.kernel)
        else:
            window, matrix = (), node.weight.decode()
        sums = oracle.conv2d if op == "conv2d" else oracle.linear
        bias = node.bias if node.bias is not None else np.zeros(len(matrix), np.float32)
        s = sums(*(oracle.exact(np.abs(a).tolist()) for a in (x, matrix, bias)), *window)
        n = sums(*((a != 0).astype(int).tolist() for a in (x, matrix, bias)), *window)
        found = bound(node, (x,))
        assert not found.exact
        flat_s, flat_n = (oracle.flatten([values])[0] for values in (s, n))
        assert fractions(found.scale) == flat_s
        for limit, size, count in zip(fractions(found.limit), flat_s, flat_n, strict=True):
            wanted = exact_gamma(count + extra) * size * (1 + U * 16) + count * Fraction(1, 2**150)
            assert abs(limit - wanted) <= wanted / 2**40

    compare()


def at(node: Node, inputs: tuple[Array, ...], factor: float) -> Array:
    """An output that is wrong by `factor` times the limit in its largest element, in float64."""
    allowed = bound(node, inputs)
    y = allowed.value.copy()
    where = np.unravel_index(np.argmax(np.broadcast_to(allowed.limit, y.shape)), y.shape)
    y[where] += factor * np.broadcast_to(allowed.limit, y.shape)[where]
    return y


ROUNDING: dict[str, tuple[Node, tuple[int, ...]]] = {
    "linear": (DENSE, (2, 3)),
    "csr": (replace(DENSE, weight=Csr.encode(MATRIX)), (2, 3)),
    "ternary": (replace(DENSE, weight=Ternary.encode(np.array([[2, 0, -1], [0, 2, 2]]))), (2, 3)),
    "conv2d": (Node("y", ops.Conv2d((1, 1), out_channels=2, activation="relu"), ("x",), DENSE.weight), (1, 3, 4, 4)),
    "batchnorm": (
        Node("y", ops.BatchNorm(), ("x",), Dense.encode(np.ones((3, 1))), *np.ones((3, 3), np.float32)),
        (2, 3, 2, 2),
    ),
    "avgpool": (Node("y", ops.AvgPool2d((2, 2)), ("x",)), (1, 2, 3, 3)),
    "globalavgpool": (Node("y", ops.GlobalAvgPool(), ("x",)), (1, 2, 3, 3)),
    "softmax": (Node("y", ops.Softmax(), ("x",)), (2, 5)),
}


@pytest.mark.parametrize(("node", "shape"), ROUNDING.values(), ids=ROUNDING)
@pytest.mark.parametrize("sign", [1, -1])
def test_both_sides_of_the_bound(node: Node, shape: tuple[int, ...], sign: int) -> None:
    inputs = (np.random.default_rng(0).standard_normal(shape).astype(np.float32),)
    assert (np.broadcast_to(bound(node, inputs).limit, bound(node, inputs).value.shape) > 0).any()
    inside, outside = (check(node, inputs, at(node, inputs, factor * sign)) for factor in (0.99, 1.01))
    assert inside.passed
    assert inside.worst == pytest.approx(0.99, rel=1e-3)
    assert not outside.passed
    assert outside.worst == pytest.approx(1.01, rel=1e-3)
    assert inside.compared == outside.compared == bound(node, inputs).value.size


@pytest.mark.parametrize("node", [RELU, Node("y", ops.Flatten(), ("x",)), Node("y", ops.Concat(), ("x",))])
def test_one_bit_is_too_much_where_bits_must_be_equal(node: Node) -> None:
    y = layer(node, X)
    assert check(node, (X,), y).passed
    y = y.copy()
    y[1, 1] = np.nextafter(y[1, 1], np.float32(9))
    failed = check(node, (X,), y)
    assert not failed.passed
    assert failed.worst == np.inf
    assert failed.where == (1, 1)
    assert (failed.got, failed.wanted) == (float(y[1, 1]), 4)


def test_zero_may_have_either_sign() -> None:
    assert check(RELU, (X,), np.where(X > 0, X, np.float32(-0.0))).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("node", [DENSE, RELU])
def test_non_finite_output_of_finite_input(node: Node, bad: float) -> None:
    y = layer(node, X)
    y[0, 0] = bad
    failed = check(node, (X,), y)
    assert not failed.passed
    assert failed.worst == np.inf
    assert failed.where == (0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_input_must_show(value: float) -> None:
    """Where the reference is NaN or infinite the output must be the same."""
    x = X.copy()
    x[1, 2] = value
    with np.errstate(invalid="ignore"):
        y = layer(DENSE, x)
    assert check(DENSE, (x,), y).passed
    y[1, 1] = 7
    assert not check(DENSE, (x,), y).passed


def test_sums_that_may_overflow_are_not_compared() -> None:
    """3e38 + 3e38 - 3e38 is 3e38 in one order and infinite in another; both pass, and are counted."""
    node = Node("y", ops.Linear(1), ("x",), Dense.encode(np.ones((1, 3))))
    x = np.array([[3e38, 3e38, -3e38], [1, 2, 3]], np.float32)
    for first in (np.inf, 3e38):
        found = check(node, (x,), np.array([[first], [6]], np.float32))
        assert found.passed
        assert (found.compared, found.skipped) in ((1, 1), (2, 0))
    assert not check(node, (x,), np.array([[np.inf], [7]], np.float32)).passed
    nothing = check(node, (x[:1],), np.array([[np.inf]], np.float32))
    assert (nothing.compared, nothing.passed) == (0, False), "a check that compared nothing has not passed"


@pytest.mark.parametrize(
    ("y", "problem"),
    [
        (np.zeros((3, 2), np.float32), r"output is float32 \(3, 2\), wanted float64 \(2, 2\)"),
        (np.zeros((2, 2, 1), np.float32), r"output is float32 \(2, 2, 1\)"),
    ],
)
def test_wrong_shape(y: Array, problem: str) -> None:
    failed = check(DENSE, (X,), y)
    assert not failed.passed
    assert re.match(problem, failed.problem)


def test_wrong_dtype_of_exact_output() -> None:
    failed = check(RELU, (X,), layer(RELU, X).astype(np.float64))
    assert not failed.passed
    assert failed.problem == "output is float64 (2, 3), wanted float32 (2, 3)"


def test_empty_output() -> None:
    failed = check(RELU, (X[:0],), X[:0])
    assert not failed.passed
    assert failed.problem == "the output is empty, nothing was compared"


def test_report_reads_well() -> None:
    passed = check(RELU, (X,), layer(RELU, X), "relu.float32.numpy.reference", "relu.float32:n2c3")
    assert str(passed) == "ok y relu.float32.numpy.reference relu.float32:n2c3: error 0 of the bound"
    failed: Any = check(RELU, (X,), X, "kernel", "case")
    assert str(failed) == "FAILED y kernel case: error inf of the bound at (1, 0), got -1.0, wanted 0.0."


@pytest.mark.parametrize("bits", [10, 8])
def test_rounded_inputs_are_outside(bits: int) -> None:
    """TF32 and bfloat16 inputs on a short sum of normal numbers; the honest float32 sum is inside."""
    rng = np.random.default_rng(1)
    node = Node("y", ops.Linear(16), ("x",), Dense.encode(rng.standard_normal((16, 27))))
    x = rng.standard_normal((8, 27)).astype(np.float32)
    keep = np.uint32(0xFFFFFFFF << (23 - bits) & 0xFFFFFFFF)
    rounded = (x.view(np.uint32) & keep).view(np.float32)
    assert check(node, (x,), layer(node, x)).passed
    assert not check(node, (x,), layer(node, rounded)).passed


@given(tiny("conv2d"), tiny("linear"))
def test_textbook_is_the_plain_loop(conv: Problem, line: Problem) -> None:
    """Integers have one answer; the places that were asked for, in their order."""
    for problem in (conv, line):
        node, (x,) = node_of(problem), inputs_of(problem)
        wanted = layer(node, x)
        places = np.arange(wanted.size)[::-1]
        np.testing.assert_array_equal(textbook(node, x, places), wanted.ravel()[::-1])


def long_sums(rows: int = 16, cols: int = 2000, activation: str | None = None) -> tuple[Node, Array]:
    rng = np.random.default_rng(2)
    weight = Dense.encode(rng.standard_normal((rows, cols)))
    return Node("y", ops.Linear(rows, activation), ("x",), weight), rng.standard_normal((32, cols)).astype(np.float32)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_rms_is_measured_in_units_of_the_textbook_loop(activation: str | None) -> None:
    node, x = long_sums(24, activation=activation)
    plain = textbook(node, x, np.arange(768)).reshape(32, 24)
    found = rms_check(node, x, plain)
    assert found.passed
    exact = layer(node, x.astype(np.float64))
    assert (found.ratio, found.compared) == (pytest.approx(1), 768 if activation is None else (exact > 0).sum())
    assert rms_check(node, x, exact).ratio == 0
    for factor, passes in ((3.9, True), (4.1, False)):
        assert rms_check(node, x, exact + factor * (plain - exact)).passed is passes


def test_rms_has_a_floor_of_half_a_rounding() -> None:
    """Where the plain loop makes no error at all, half a unit of the sum is allowed."""
    node = Node("y", ops.Linear(16), ("x",), Dense.encode(np.ones((16, 2))))
    x = np.ones((32, 2), np.float32)
    for factor, passes in ((0.49, True), (0.51, False)):
        assert rms_check(node, x, np.full((32, 16), 2 * (1 + factor * 2.0**-24))).passed is passes


@pytest.mark.parametrize("bits", [10, 8])
def test_rms_sees_rounded_inputs_where_the_bound_does_not(bits: int) -> None:
    node, x = long_sums()
    keep = np.uint32(0xFFFFFFFF << (23 - bits) & 0xFFFFFFFF)
    rounded = layer(node, (x.view(np.uint32) & keep).view(np.float32))
    assert rms_check(node, x, layer(node, x)).passed
    assert not rms_check(node, x, rounded).passed
    assert rms_check(node, x, rounded).ratio > 100


def test_rms_of_too_few_or_wrong_outputs_says_nothing_or_fails() -> None:
    node, x = long_sums(rows=7)
    y = layer(node, x)
    few = rms_check(node, x, y)
    assert (few.compared, few.passed) == (0, False)
    node, x = long_sums()
    assert rms_check(node, x, layer(node, x)[:, :7]).compared == 0
    y = layer(node, x)
    y[3, 3] = np.nan
    assert rms_check(node, x, y).ratio == np.inf


def test_indeterminate_is_where_sums_may_overflow() -> None:
    node = Node("y", ops.Linear(1), ("x",), Dense.encode(np.ones((1, 3))))
    x = np.array([[3e38, 3e38, -3e38], [1, 2, 3], [np.inf, 0, 0]], np.float32)
    found = bound(node, (x,))
    assert found.indeterminate.tolist() == [[True], [False], [False]]
    assert found.terms[:2].tolist() == [[3], [3]]
