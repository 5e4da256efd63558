"""A second opinion: ONNX Runtime on drawn problems of every layer and format, and on the three networks.

It knows nothing of refstack: another code base, other kernels, other orders of summation. Its answers must be what the
contract allows, so a reference or a bound that is wrong shows here, where a kernel that shares the mistake would pass.
"""

from __future__ import annotations

import numpy as np
import onnx_graph
import pytest
from calls import ROWS, case
from hypothesis import assume, given
from strategies import problems

import refstack as rs
from refstack import datasets, ops
from refstack.compare import Check, check
from refstack.contract import U
from refstack.formats import Array, Int8, Quant
from refstack.graph import INPUT, Graph, Node
from refstack.kernels import Kernel
from refstack.models import MODELS, zoo
from refstack.passes import prepare
from refstack.reference import layer
from refstack.verification.cases import Problem
from refstack.verification.fills import inputs_of, node_of

REFERENCE = [row for row in ROWS if row.backend == "numpy"]
OTHERS = {"reorder": "layouts are refstack's own"}
"""Ops that ONNX has not."""

ROUNDINGS = 5
"""Of float32 in ONNX Runtime's requantization: two for the scales' ratio, one each for the sum and the product, and one
to spare for the scale itself, which refstack keeps in float64."""


def theirs(node: Node, inputs: tuple[Array, ...]) -> Array:
    """ONNX Runtime's output for one layer."""
    asked = case(node, inputs)
    given_ = {name: (x.shape, x.dtype.name) for name, x in zip(node.inputs, inputs, strict=True)}
    model = onnx_graph.model([node], given_, {node.name: (asked.shape, asked.output)})
    return onnx_graph.run(model, dict(zip(node.inputs, inputs, strict=True)))[node.name]


def unrounded(node: Node, x: Array) -> tuple[Array, Quant]:
    """What an int8 output is the rounding of, in steps of its grid."""
    if isinstance(node.op, ops.Quantize):
        return x.astype(np.float64) / node.op.scale, Quant(node.op.scale, node.op.zero_point)
    weight = node.weight
    assert isinstance(weight, Int8)
    assert weight.output is not None
    sums = layer(Node("sums", plain(node.op), node.inputs, Int8(weight.values, np.ones_like(weight.scale),
                 Quant(1.0, weight.input.zero_point))), x)  # fmt: skip
    column = (-1, 1, 1) if x.ndim == 4 else (-1,)
    sums = sums.astype(np.float64) + weight.integer_bias(node.bias).reshape(column)
    return sums * (weight.unit.astype(np.float64) / weight.output.scale).reshape(column), weight.output


def plain(op: ops.Op) -> ops.Op:
    """Without its activation."""
    return type(op)(**{**vars(op), "activation": None})


def rounds(node: Node) -> bool:
    """Whether the layer rounds real numbers to int8, where the two take halves elsewhere: ours up, theirs to even."""
    return isinstance(node.op, ops.Quantize) or (isinstance(node.weight, Int8) and node.weight.output is not None)


def agree(node: Node, inputs: tuple[Array, ...], y: Array) -> Check:
    """Hold ONNX Runtime's output to the contract. What lies within its rounding of a half may be one step off."""
    verdict = check(node, inputs, y, "onnxruntime", case(node, inputs).word)
    if verdict.worst <= 1 or not rounds(node) or y.dtype != np.int8:
        return verdict
    real, grid = unrounded(node, inputs[0])
    half = np.abs(real - np.floor(real) - 0.5) <= ROUNDINGS * U * np.abs(real)
    apart = np.abs(y.astype(int) - layer(node, *inputs).astype(int))
    if np.isfinite(real).all() and (apart <= half).all() and grid.scale > 0:
        return Check(node.name, "onnxruntime", verdict.case, y.size, 0, 0.0)
    return verdict


@pytest.mark.parametrize("row", [row for row in REFERENCE if row.op not in OTHERS], ids=lambda row: row.name)
def test_layer(row: Kernel) -> None:
    """Drawn problems, every fill."""
    compared: list[int] = []

    @given(problems(row))
    def opinion(problem: Problem) -> None:
        op = problem.case.op
        # ONNX Runtime refuses windows padded by their size, and its max-pool loses NaN
        pooling = isinstance(op, ops.MaxPool2d | ops.AvgPool2d)
        assume(not (pooling and any(p >= k for p, k in zip(op.padding, op.kernel * 2, strict=True))))
        # and where weights are not stored it multiplies infinity by their zeros
        assume(problem.fill != "special" or not (pooling or problem.case.format in ("csr", "bsr", "ternary")))
        node, inputs = node_of(problem), inputs_of(problem)
        with np.errstate(all="ignore"):  # infinity minus infinity is a fill
            verdict = agree(node, inputs, theirs(node, inputs))
        assert verdict.worst <= 1, f"{problem}: {verdict}"
        assert not verdict.problem, f"{problem}: {verdict}"
        compared.append(verdict.compared)

    opinion()
    assert sum(compared) > 0


def test_that_every_layer_is_asked() -> None:
    """All ops but those that ONNX has not, in all formats."""
    asked = {(row.op, row.format) for row in test_layer.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert asked == {(row.op, row.format) for row in ROWS if row.op not in OTHERS}


def opinions(graph: Graph, x: Array) -> tuple[list[Check], dict[str, Array]]:
    """Each layer of a network as ONNX Runtime ran it, held to its bound on the inputs that ONNX Runtime gave it."""
    values = onnx_graph.run(onnx_graph.network(graph, len(x), everything=True), {INPUT: x})
    values[INPUT] = x
    return [agree(node, tuple(values[name] for name in node.inputs), values[node.name]) for node in graph], values


@pytest.mark.parametrize("model", MODELS)
def test_network(model: str) -> None:
    """Layer by layer inside the bound, both of them, on an image with PyTorch's logits; and one verdict on it."""
    graph, golden = rs.load(model), zoo.golden(model)
    x = datasets.preprocess(golden["inputs"][:1])
    checks, values = opinions(graph, x)
    assert len(checks) == len(graph.nodes)
    failed = [str(each) for each in checks if not each.passed]
    assert not failed, failed[0]
    ours = rs.check_plan(rs.plan(prepare(graph), backends=("openmp",)), x)
    assert ours.passed, ours.problem
    answers = {np.argmax(y[0]) for y in (values[graph.output], ours.output, golden["logits"][:1])}
    assert len(answers) == 1


def test_int8_network() -> None:
    """The sums are the same integers; only what lies on a half may differ by a step."""
    graph = rs.compress(rs.load("mobilenet"), "int8")
    checks, _ = opinions(graph, datasets.preprocess(zoo.golden("mobilenet")["inputs"][:1]))
    assert sum(isinstance(node.weight, Int8) for node in graph) > 10
    failed = [str(each) for each in checks if not each.passed]
    assert not failed, failed[0]


def test_a_wrong_reference_is_caught() -> None:
    """ONNX Runtime given another layer than refstack's, as if the reference meant something else."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 6, 5)).astype(np.float32)
    right = Node("y", ops.AvgPool2d((2, 3), (2, 1), (1, 1, 0, 2)), ("x",))
    assert agree(right, (x,), theirs(right, (x,))).passed
    for change in ({"count_include_pad": True}, {"stride": (1, 2)}, {"padding": (1, 2, 0, 1)}):
        wrong = Node("y", ops.AvgPool2d(**{**vars(right.op), **change}), ("x",))
        y = theirs(wrong, (x,))
        assert y.shape != layer(right, x).shape or not agree(right, (x,), y).passed, change


def test_a_step_away_from_a_half_is_caught() -> None:
    """One step is forgiven on a half only: 2.5 may be 2 or 3, 2.25 may not."""
    node = Node("y", ops.Quantize(1.0), ("x",))
    x = np.array([[2.5, 2.25]], np.float32)
    assert agree(node, (x,), np.array([[3, 2]], np.int8)).passed
    assert not agree(node, (x,), np.array([[2, 3]], np.int8)).passed
    assert not agree(node, (x,), np.array([[4, 2]], np.int8)).passed
