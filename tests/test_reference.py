"""The NumPy reference against the second oracle: equal numbers, drawn shapes, every layer, and planted faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import tiny

from refstack import ops
from refstack.errors import ShapeError, UsageError
from refstack.formats import FORMATS, Array, Csr, Dense, Int8, Quant, Ternary, Weight
from refstack.graph import Graph, Node
from refstack.reference import conv, layer, pool, run, trace
from refstack.reference.window import windows
from refstack.verification.cases import Problem, Seeded
from refstack.verification.families import FAMILIES
from refstack.verification.fills import fills, inputs_of, node_of, problem_of

KINDS = [("conv2d", format) for format in FORMATS] + [("linear", format) for format in FORMATS]
KINDS += [(op, "float32") for op in ("maxpool", "avgpool", "globalavgpool", "relu")]
KINDS += [(op, "float32") for op in ("add", "concat", "flatten", "quantize")]
KINDS += [(op, "int8") for op in ("maxpool", "concat", "flatten")]


def second_opinion(node: Node, inputs: tuple[Array, ...]) -> Any:
    """The oracle's nested list for a node. Activations after a layer are its relu."""
    op, x = node.op, [oracle.exact(array.tolist()) for array in inputs]
    bias = None if node.bias is None else oracle.exact(node.bias.tolist())
    if isinstance(node.weight, Int8):
        return int8_opinion(node, x[0])
    if isinstance(op, ops.Conv2d):
        weight = oracle.exact(node.weight.decode().reshape(op.out_channels, -1, *op.kernel).tolist())
        y = oracle.conv2d(x[0], weight, bias, op.stride, op.padding, op.dilation, op.groups)
    elif isinstance(op, ops.Linear):
        y = oracle.linear(x[0], oracle.exact(node.weight.decode().tolist()), bias)
    elif isinstance(op, ops.MaxPool2d):
        y = oracle.maxpool(x[0], op.kernel, op.stride, op.padding, op.dilation)
    elif isinstance(op, ops.AvgPool2d):
        y = oracle.avgpool(x[0], op.kernel, op.stride, op.padding, op.dilation, op.count_include_pad)
    elif isinstance(op, ops.BatchNorm):
        arrays = (node.weight.decode()[:, 0], node.bias, node.mean, node.var)
        y = oracle.batchnorm(x[0], *(oracle.exact(array.tolist()) for array in arrays), oracle.exact(op.eps))
    elif isinstance(op, ops.Quantize):
        y = oracle.quantize(inputs[0].tolist(), op.scale, op.zero_point)
    else:
        simple = {"globalavgpool": oracle.globalavgpool, "relu": oracle.relu, "add": oracle.add,
                  "concat": oracle.concat, "flatten": oracle.flatten}  # fmt: skip
        y = simple[op.name](*x)
    activation = getattr(op, "activation", None)
    return oracle.relu(y, activation == "relu6") if activation else y


def int8_opinion(node: Node, x: Any) -> Any:
    op, weight = node.op, node.weight
    if isinstance(op, ops.Conv2d):
        values = weight.values.reshape(op.out_channels, -1, *op.kernel).tolist()
        sums = oracle.conv2d(
            x, values, None, op.stride, op.padding, op.dilation, op.groups, zero=weight.input.zero_point
        )
    else:
        sums = oracle.linear(x, weight.values.tolist(), None, zero=weight.input.zero_point)
    by_row = [list(planes) for planes in zip(*sums, strict=True)]
    output = (weight.output.scale, weight.output.zero_point) if weight.output else None
    six = None if op.activation is None else op.activation == "relu6"
    bias = None if node.bias is None else node.bias.tolist()
    y = oracle.int8_rows(by_row, bias, weight.scale.tolist(), weight.input.scale, output, six)
    return [list(rows) for rows in zip(*y, strict=True)]


def difference(got: Array, wanted: Any) -> str:
    """In words where an array differs from nested numbers, or nothing. Fractions are rounded to the array's dtype."""
    mine = oracle.flatten([got.tolist()])[0]
    theirs = oracle.flatten([wanted])[0]
    if got.dtype.kind == "f":
        theirs = [got.dtype.type(float(value)).item() for value in theirs]
    shape, level = [], wanted
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0]
    if got.shape != tuple(shape):
        return f"shape {got.shape}, wanted {tuple(shape)}"
    wrong = [(a, b) for a, b in zip(mine, theirs, strict=True) if a != b and not (a != a and b != b)]
    return f"{len(wrong)} of {len(mine)} differ, the first is {wrong[0]}" if wrong else ""


def disagreement(problem: Problem) -> str:
    """In words where reference and oracle differ in float32 or float64, or nothing."""
    node, inputs = node_of(problem), inputs_of(problem)
    wanted = second_opinion(node, inputs)
    for dtype in (np.float32, np.float64):
        y = layer(node, *(x if x.dtype == np.int8 else x.astype(dtype) for x in inputs))
        found = difference(y, wanted)
        if found:
            return f"{problem} in {np.dtype(dtype)}: {found}"
        if y.dtype not in (np.int8, dtype) and not isinstance(node.weight, Int8):
            return f"{problem}: {dtype} in, {y.dtype} out"
    return ""


@pytest.mark.parametrize(("op", "format"), KINDS)
def test_layer(op: str, format: str) -> None:
    @given(tiny(op, format))
    def check(problem: Problem) -> None:
        assert not disagreement(problem)

    check()


@st.composite
def square_norms(draw: Any) -> tuple[Node, Array]:
    """Batch norms whose var + eps are squares of powers of two, so that every number is exact."""
    n, c, h, w = (draw(st.integers(1, 3)) for _ in range(4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    gamma, beta, mean = rng.integers(-50, 51, (3, c)).astype(np.float32)
    var = rng.choice((0.0, 3.0, 15.0, 63.0), c).astype(np.float32)
    node = Node("bn", ops.BatchNorm(eps=1.0), ("x",), Dense.encode(gamma[:, None]), beta, mean, var)
    return node, rng.integers(-50, 51, (n, c, h, w)).astype(np.float32)


@given(square_norms())
def test_batchnorm_on_squares(drawn: tuple[Node, Array]) -> None:
    node, x = drawn
    for dtype in (np.float32, np.float64):
        y = layer(node, x.astype(dtype))
        assert y.dtype == dtype
        assert not difference(y, second_opinion(node, (x,)))


def test_batchnorm_without_bias() -> None:
    ones = np.ones(2, np.float32)
    node = Node("bn", ops.BatchNorm(eps=3.0), ("x",), Dense.encode(ones[:, None]), None, ones, ones)
    y = layer(node, np.full((1, 2, 1, 1), 5, np.float32))
    assert (y == 2).all()
    assert y.dtype == np.float32


@given(st.lists(st.lists(st.integers(-40, 40), min_size=3, max_size=3), min_size=1, max_size=3))
def test_softmax(rows: list[list[int]]) -> None:
    """Within 2**-20 in float32 and 2**-48 in float64 of sixty decimal digits; rows sum to 1."""
    wanted = oracle.softmax(rows)
    for dtype, bits in ((np.float32, 20), (np.float64, 48)):
        y = layer(Node("y", ops.Softmax(), ("x",)), np.array(rows, dtype))
        assert y.dtype == dtype
        for got, row in zip(y.tolist(), wanted, strict=True):
            assert all(abs(a - float(b)) <= float(b) * 2.0**-bits for a, b in zip(got, row, strict=True))
            assert abs(sum(got) - 1) <= 2.0**-bits


def test_softmax_shifts_by_the_maximum() -> None:
    """Of each row: exp(-2000) of another row's would be 0 / 0."""
    y = layer(Node("y", ops.Softmax(), ("x",)), np.array([[1e30, 1e30, 0], [2, 2, -1e30]], np.float32))
    assert y.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0]]


def test_avgpool_counts_pixels_for_any_batch() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 1, 2)
    y = layer(Node("y", ops.AvgPool2d((1, 2), padding=(0, 1, 0, 0)), ("x",)), x)
    assert y.ravel().tolist() == [0, 0.5, 2, 2.5, 4, 4.5, 6, 6.5, 8, 8.5, 10, 10.5]


# Convolutions of 0, 1, 2 .. with ones, worked out by hand in the node tests of the ONNX standard.
FROZEN = (
    ((5, 5), (1, 1), (1, 1, 1, 1),
     [[12, 21, 27, 33, 24], [33, 54, 63, 72, 51], [63, 99, 108, 117, 81],
      [93, 144, 153, 162, 111], [72, 111, 117, 123, 84]]),
    ((5, 5), (1, 1), (0, 0, 0, 0), [[54, 63, 72], [99, 108, 117], [144, 153, 162]]),
    ((7, 5), (2, 2), (1, 1, 1, 1), [[12, 27, 24], [63, 108, 81], [123, 198, 141], [112, 177, 124]]),
    ((7, 5), (2, 2), (0, 0, 0, 0), [[54, 72], [144, 162], [234, 252]]),
    ((7, 5), (2, 2), (1, 0, 1, 0), [[21, 33], [99, 117], [189, 207], [171, 183]]),
)  # fmt: skip


@pytest.mark.parametrize(("plane", "stride", "padding", "wanted"), FROZEN)
def test_conv2d_worked_by_hand(plane: Any, stride: Any, padding: Any, wanted: list[list[int]]) -> None:
    x = np.arange(plane[0] * plane[1], dtype=np.float32).reshape(1, 1, *plane)
    node = Node("y", ops.Conv2d((3, 3), stride, padding), ("x",), Dense.encode(np.ones((1, 9))))
    assert layer(node, x)[0, 0].tolist() == wanted


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("op", "x", "wanted"),
    [
        (ops.ReLU(), [NAN, INF, -INF, -0.0, -1, 7], [NAN, INF, 0, 0, 0, 7]),
        (ops.ReLU("relu6"), [NAN, INF, -INF, 7, 6, 0.5], [NAN, 6, 0, 6, 6, 0.5]),
        (ops.MaxPool2d((1, 2), (1, 2)), [NAN, 1, 2, NAN, -INF, -INF], [NAN, NAN, -INF]),
        (ops.MaxPool2d((1, 3), (1, 3), (0, 1, 0, 0), (1, 1)), [-3, -2, INF, 0, -1], [-2, INF]),
        (ops.AvgPool2d((1, 2), (1, 2)), [NAN, 1, INF, 1, INF, -INF], [NAN, INF, NAN]),
        (ops.GlobalAvgPool(), [1, 2, NAN], [NAN]),
        (ops.Flatten(), [NAN, -INF, 1], [NAN, -INF, 1]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.filterwarnings("ignore:invalid value")  # infinity minus infinity is NaN, as it should be
def test_special_values(op: ops.Op, x: list[float], wanted: list[float]) -> None:
    for dtype in (np.float32, np.float64):
        y = layer(Node("y", op, ("x",)), np.array(x, dtype).reshape(1, 1, 1, -1))
        np.testing.assert_array_equal(y.ravel(), np.array(wanted, dtype))


@pytest.mark.parametrize("row", [[NAN, 0, 1], [INF, 0, 1], [-INF, -INF, -INF]])
def test_softmax_of_special_values(row: list[float]) -> None:
    assert np.isnan(layer(Node("y", ops.Softmax(), ("x",)), np.array([row], np.float32))).all()


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("format", [Dense, Csr, Ternary])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_zero_that_is_not_stored_annihilates(format: type[Weight], value: float) -> None:
    """Weight 0 meets the special value in row 0, weight 1 in row 1. Dense zeros are stored and multiply."""
    weight = format.encode(np.array([[0, 1], [1, 1]], np.float32))
    y = layer(Node("y", ops.Linear(2), ("x",), weight), np.array([[value, 0]], np.float32))[0]
    assert np.isnan(y[0]) if format is Dense else y[0] == 0
    np.testing.assert_array_equal(y[1], value)


def test_stored_zero_multiplies() -> None:
    weight = Csr(np.array([0, 1], np.int32), np.array([0], np.int32), np.array([0], np.float32), 2)
    assert np.isnan(layer(Node("y", ops.Linear(1), ("x",), weight), np.array([[NAN, 1]], np.float32)))


def test_padding_never_multiplies() -> None:
    """Infinite weights are refused elsewhere; an infinite pixel reaches only the windows that see it."""
    x = np.zeros((1, 1, 1, 4), np.float32)
    x[..., 0] = INF
    node = Node("y", ops.Conv2d((1, 2), padding=(0, 1, 0, 0)), ("x",), Csr.encode(np.array([[0, 1]])))
    assert layer(node, x)[0, 0, 0].tolist() == [INF, 0, 0, 0]


def chain() -> Graph:
    """Two convolutions that meet in an addition, and a classifier."""
    rng = np.random.default_rng(5)

    def dense(rows: int, cols: int) -> Dense:
        return Dense.encode(rng.integers(-3, 4, (rows, cols)))

    bias = np.array([1, -2], np.float32)
    same = ops.Conv2d((3, 3), padding=(1, 1, 1, 1), out_channels=2, activation="relu")
    nodes = (
        Node("a", same, ("input",), dense(2, 27), bias),
        Node("b", ops.Conv2d((1, 1), out_channels=2), ("a",), dense(2, 2)),
        Node("c", ops.Add("relu"), ("a", "b")),
        Node("d", ops.MaxPool2d((2, 2), (2, 2)), ("c",)),
        Node("e", ops.Flatten(), ("d",)),
        Node("f", ops.Linear(4), ("e",), dense(4, 8), np.arange(4, dtype=np.float32)),
    )
    return Graph("chain", (3, 4, 4), nodes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_network(dtype: Any) -> None:
    """A chain of layers is the chain of the oracle's layers."""
    graph = chain()
    graph.check()
    x = np.random.default_rng(6).integers(-4, 5, (2, 3, 4, 4)).astype(dtype)
    values = trace(graph, x)
    opinion: dict[str, Array] = {"input": x}
    for node in graph:
        wanted = second_opinion(node, tuple(opinion[name] for name in node.inputs))
        opinion[node.name] = np.array(oracle.each(float, wanted))
        assert not difference(values[node.name], wanted), node.name
    assert run(graph, x).dtype == dtype
    np.testing.assert_array_equal(run(graph, x), values["f"])


def test_network_input_of_wrong_shape() -> None:
    with pytest.raises(ShapeError, match=r"chain: input has shape \(1, 3, 5, 4\), wanted \(n, 3, 4, 4\)"):
        run(chain(), np.zeros((1, 3, 5, 4), np.float32))


@pytest.mark.parametrize("shape", [(2, 5), (2, 28), (1, 27), (3, 27)])
def test_weight_that_does_not_fit(shape: tuple[int, int]) -> None:
    weight = Dense.encode(np.ones(shape))
    got = re.escape(str(shape))
    with pytest.raises(ShapeError, match=rf"conv2d: weight is {got}, input \(1, 3, 4, 4\) wants \(2, 27\)"):
        layer(Node("y", ops.Conv2d((3, 3), out_channels=2), ("x",), weight), np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(ShapeError, match=rf"linear: weight is {got}, input \(1, 27\) wants \(2, 27\)"):
        layer(Node("y", ops.Linear(2), ("x",), weight), np.zeros((1, 27), np.float32))


def test_quantize_refuses_nan() -> None:
    with pytest.raises(UsageError, match=r"^quantize: the input has a NaN, which no int8 value stands for$"):
        layer(Node("y", ops.Quantize(), ("x",)), np.array([NAN], np.float32))


def gathered(change: Callable[[ops.Window], ops.Window], clamp: bool = False) -> Callable[..., Array]:
    """`windows` by index, on a changed op; with `clamp`, padding repeats the edge."""

    def wrong(x: Array, op: ops.Window, fill: float = 0) -> Array:
        (h, w), other = x.shape[2:], change(op)
        p, q = op.output_plane(h, w)
        i = np.arange(p)[:, None] * other.stride[0] + np.arange(op.kernel[0]) * other.dilation[0] - other.padding[0]
        j = np.arange(q)[:, None] * other.stride[1] + np.arange(op.kernel[1]) * other.dilation[1] - other.padding[1]
        inside = ((i >= 0) & (i < h))[:, :, None, None] & ((j >= 0) & (j < w)) | clamp
        seen = x[:, :, i.clip(0, h - 1)[:, :, None, None], j.clip(0, w - 1)]
        return np.where(inside, seen, x.dtype.type(fill)).transpose(0, 1, 2, 4, 3, 5)

    return wrong


def far_padding(op: ops.Window) -> ops.Window:
    top, left, bottom, right = op.padding
    return replace(op, padding=(bottom, right, top, left))


def no_dilation_if_strided(op: ops.Window) -> ops.Window:
    return replace(op, dilation=(1, 1)) if max(op.stride) > 1 else op


def first_group_only(weight: Dense, start: int, stop: int) -> Dense:
    return Dense(weight.values[: stop - start])


def truncated(grid: Quant, x: Array) -> Array:
    return np.clip(np.trunc(x.astype(np.float64) / grid.scale) + grid.zero_point, -128, 127).astype(np.int8)


def half_even(acc: Array, m0: Array, shift: Array, zero_point: int) -> Array:
    return np.clip(np.rint(acc * m0.astype(np.float64) / 2.0**shift) + zero_point, -128, 127).astype(np.int8)


CONV = "refstack.reference.conv.windows"
POOL = "refstack.reference.pool.windows"
PLANTED: dict[str, tuple[str, str, str, Any]] = {
    "strides swapped": ("conv2d", "dense", CONV, gathered(lambda op: replace(op, stride=op.stride[::-1]))),
    "dilations swapped": ("conv2d", "dense", CONV, gathered(lambda op: replace(op, dilation=op.dilation[::-1]))),
    "padding of the far sides": ("conv2d", "dense", CONV, gathered(far_padding)),
    "dilation ignored if strided": ("conv2d", "dense", CONV, gathered(no_dilation_if_strided)),
    "edge repeated": ("conv2d", "dense", CONV, gathered(lambda op: op, clamp=True)),
    "filter flipped": ("conv2d", "dense", CONV, lambda x, op, fill=0: windows(x, op, fill)[..., ::-1, ::-1]),
    "padding is 0, not the zero point": ("conv2d", "int8", CONV, lambda x, op, fill=0: windows(x, op, 0)),
    "first group's filters": ("conv2d", "dense", "refstack.formats.Dense.rows", first_group_only),
    "half to even": ("linear", "int8", "refstack.formats.int8.requantize", half_even),
    "activation not clamped": (
        "linear",
        "int8",
        "refstack.formats.Int8.limits",
        lambda weight, activation: (-128, 127),
    ),
    "bias lost": ("linear", "int8", "refstack.formats.Int8.integer_bias", lambda weight, bias: weight.values[:, 0] * 0),
    "activation lost": ("linear", "dense", "refstack.formats.base.activate", lambda y, activation: y),
    "padding of 0 wins": ("maxpool", "float32", POOL, lambda x, op, fill=0: windows(x, op, 0)),
    "padding counted": ("avgpool", "float32", POOL, lambda x, op, fill=0: windows(x, op, 1)),
    "truncated": ("quantize", "float32", "refstack.formats.int8.Quant.quantize", truncated),
}


def seeded(op: str, format: str, count: int) -> list[Problem]:
    """Tiny problems without hypothesis."""
    words = ("integer",) if format != "int8" else fills(op, format)
    found = []
    for seed in range(count):
        choose = Seeded(seed)
        layer_op, inputs = FAMILIES[op]["general"](choose, (2,))
        if sum(int(np.prod(shape)) for shape in inputs) <= 300:
            found.append(problem_of(choose, layer_op, inputs, format, words[seed % len(words)]))
    return found


@pytest.mark.parametrize(("op", "format", "target", "wrong"), PLANTED.values(), ids=PLANTED)
def test_planted_fault_is_found(op: str, format: str, target: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison that passes the reference refuses each of these."""
    drawn = seeded(op, format, 150)
    assert len(drawn) > 50
    assert not any(disagreement(problem) for problem in drawn)
    monkeypatch.setattr(target, wrong)
    assert any(disagreement(problem) for problem in drawn), "the fault was not found"


def test_gathered_windows_are_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harmless version of the planted faults is harmless: they are caught for what they change."""
    for module in (conv, pool):
        monkeypatch.setattr(module, "windows", gathered(lambda op: op))
    assert not any(disagreement(problem) for op in ("conv2d", "maxpool") for problem in seeded(op, "dense", 60))
