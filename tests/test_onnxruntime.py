"""A second opinion: ONNX Runtime on drawn problems of every layer and format, and on the three networks.

It knows nothing of refstack: another code base, other kernels, other orders of summation. Its answers must be what the
contract allows, so a reference or a bound that is wrong shows here, where a kernel that shares the mistake would pass.
"""

from __future__ import annotations

import numpy as np
import pytest
from calls import ROWS, case
from hypothesis import assume, given
from strategies import problems

import refstack as rs
from refstack import datasets, onnx_graph, ops
from refstack.compare import Check
from refstack.exporter import agree, compare
from refstack.formats import Array, Int8
from refstack.graph import Graph, Node
from refstack.kernels import Kernel
from refstack.models import MODELS, zoo
from refstack.passes import prepare
from refstack.reference import layer
from refstack.verification.cases import Problem
from refstack.verification.fills import inputs_of, node_of

REFERENCE = [row for row in ROWS if row.backend == "numpy"]
OTHERS = {"reorder": "layouts are refstack's own"}
"""Ops that ONNX has not."""


def theirs(node: Node, inputs: tuple[Array, ...]) -> Array:
    """ONNX Runtime's output for one layer."""
    asked = case(node, inputs)
    given_ = {name: (x.shape, x.dtype.name) for name, x in zip(node.inputs, inputs, strict=True)}
    model = onnx_graph.model([node], given_, {node.name: (asked.shape, asked.output)})
    return onnx_graph.run(model, dict(zip(node.inputs, inputs, strict=True)))[node.name]


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


def opinions(graph: Graph, x: Array) -> tuple[tuple[Check, ...], Array]:
    """Each layer of a network as ONNX Runtime ran it, held to its bound on the inputs that ONNX Runtime gave it."""
    return compare(graph, onnx_graph.network(graph, len(x)).SerializeToString(), x, "onnxruntime")


@pytest.mark.parametrize("model", MODELS)
def test_network(model: str) -> None:
    """Layer by layer inside the bound, both of them, on an image with PyTorch's logits; and one verdict on it."""
    graph, golden = rs.load(model), zoo.golden(model)
    x = datasets.preprocess(golden["inputs"][:1])
    checks, logits = opinions(graph, x)
    assert len(checks) == len(graph.nodes)
    failed = [str(each) for each in checks if not each.passed]
    assert not failed, failed[0]
    ours = rs.check_plan(rs.plan(prepare(graph), backends=("openmp",)), x)
    assert ours.passed, ours.problem
    answers = {np.argmax(y[0]) for y in (logits, ours.output, golden["logits"][:1])}
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
