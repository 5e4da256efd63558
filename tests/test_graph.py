"""Graphs: shapes, dtypes, counts, identity, and every way of being wrong with its message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from refstack import ops
from refstack.errors import FormatError, ShapeError
from refstack.formats import Csr, Dense, Int8, Quant
from refstack.graph import INPUT, Graph, Node


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def whole() -> Graph:
    """conv -> batchnorm -> relu -> add (with the conv) -> pool -> flatten -> linear, on (2, 4, 4)."""
    rng = np.random.default_rng(0)
    weight = Csr.encode(rng.integers(0, 2, (3, 18)))
    ones = np.ones(3, np.float32)
    nodes = (
        Node("conv", ops.Conv2d((3, 3), padding=(1, 1, 1, 1), out_channels=3), (INPUT,), weight, f32(1, 2, 3)),
        Node("bn", ops.BatchNorm(), ("conv",), Dense.encode(ones[:, None]), ones, ones, ones),
        Node("relu", ops.ReLU(), ("bn",)),
        Node("add", ops.Add(), ("relu", "conv")),
        Node("pool", ops.MaxPool2d((2, 2), (2, 2)), ("add",)),
        Node("flat", ops.Flatten(), ("pool",)),
        Node("fc", ops.Linear(5), ("flat",), Dense.encode(rng.standard_normal((5, 12)))),
    )
    return Graph("whole", (2, 4, 4), nodes, {"model": "test"})


def changed(which: str, **changes: Any) -> Graph:
    """`whole` with one node's fields changed."""
    graph = whole()
    return graph.with_nodes([replace(node, **changes) if node.name == which else node for node in graph])


def test_shapes_and_wiring() -> None:
    graph = whole()
    graph.check()
    assert graph.shapes(2) == {
        INPUT: (2, 2, 4, 4), "conv": (2, 3, 4, 4), "bn": (2, 3, 4, 4), "relu": (2, 3, 4, 4), "add": (2, 3, 4, 4),
        "pool": (2, 3, 2, 2), "flat": (2, 12), "fc": (2, 5),
    }  # fmt: skip
    assert graph.output == "fc"
    assert [node.name for node in graph.consumers("conv")] == ["bn", "add"]
    assert [node.name for node in graph.consumers(INPUT)] == ["conv"]
    assert graph.consumers("fc") == []
    assert graph["pool"].op == ops.MaxPool2d((2, 2), (2, 2))
    assert [node.name for node in graph] == ["conv", "bn", "relu", "add", "pool", "flat", "fc"]
    with pytest.raises(KeyError, match="nowhere"):
        graph["nowhere"]


def test_counts() -> None:
    """By hand: 3 filters of 18 on 16 pixels, 5 x 12 in the classifier."""
    graph = whole()
    stored = np.count_nonzero(graph["conv"].weight.decode())
    assert graph.macs == 3 * 18 * 16 + 5 * 12
    assert graph.params == (54 + 3) + (3 + 3) + 60
    assert graph.nnz == stored + 60
    assert graph.stored_bytes == (4 * 4 + 8 * stored + 4 * 3) + (4 * 3) * 4 + 4 * 60


def test_dtypes() -> None:
    """int8 starts at quantize or a requantizing layer, passes through what moves numbers, ends at a float32 layer."""
    grid = Quant(0.1, 3)
    narrow = Int8.encode(np.ones((2, 2)), grid, grid)
    wide = Int8.encode(np.ones((2, 2)), grid)
    conv = ops.Conv2d((1, 1), out_channels=2)
    graph = Graph("q", (2, 2, 2), (
        Node("q", ops.Quantize(0.1, 3), (INPUT,)),
        Node("a", conv, ("q",), narrow),
        Node("pool", ops.MaxPool2d((2, 2)), ("a",)),
        Node("cat", ops.Concat(), ("pool", "pool")),
        Node("b", conv, ("pool",), wide),
        Node("relu", ops.ReLU(), ("b",)),
    ))  # fmt: skip
    graph.check()
    words = {name: np.dtype(dtype).name for name, dtype in graph.dtypes().items()}
    assert words == {
        INPUT: "float32", "q": "int8", "a": "int8", "pool": "int8", "cat": "int8", "b": "float32", "relu": "float32",
    }  # fmt: skip


def test_with_nodes_keeps_the_rest() -> None:
    graph = whole()
    other = graph.with_nodes(graph.nodes[:2], technique="cut")
    assert (other.name, other.input_shape, len(other.nodes)) == ("whole", (2, 4, 4), 2)
    assert other.meta == {"model": "test", "technique": "cut"}
    assert graph.meta == {"model": "test"}
    assert len(graph.nodes) == 7


def test_identity_is_of_content() -> None:
    assert whole().sha256() == whole().sha256()
    renamed = Graph("other", whole().input_shape, whole().nodes, {"more": 1})
    assert renamed.sha256() == whole().sha256(), "name and meta are not what is computed"


def one_bit(graph: Graph, name: str, field: str) -> Graph:
    """One bit of one array flipped."""
    node = graph[name]
    array = getattr(node, field).copy() if field in ("bias", "mean", "var") else getattr(node.weight, field).copy()
    array.reshape(-1).view(np.uint8)[0] ^= 1
    changes = {field: array} if field in ("bias", "mean", "var") else {"weight": replace(node.weight, **{field: array})}
    return graph.with_nodes([replace(each, **changes) if each.name == name else each for each in graph])


DIFFERENT: dict[str, Callable[[Graph], Graph]] = {
    "weight bit": lambda graph: one_bit(graph, "fc", "values"),
    "index bit": lambda graph: one_bit(graph, "conv", "indices"),
    "bias bit": lambda graph: one_bit(graph, "conv", "bias"),
    "mean bit": lambda graph: one_bit(graph, "bn", "mean"),
    "var bit": lambda graph: one_bit(graph, "bn", "var"),
    "op": lambda graph: changed("relu", op=ops.ReLU("relu6")),
    "eps": lambda graph: changed("bn", op=ops.BatchNorm(1e-3)),
    "wiring": lambda graph: changed("add", inputs=("conv", "relu")),
    "no bias": lambda graph: changed("conv", bias=None),
    "input": lambda graph: replace(graph, input_shape=(2, 5, 5)),
    "order": lambda graph: graph.with_nodes(graph.nodes[::-1]),
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_identity_sees_every_change(change: Callable[[Graph], Graph]) -> None:
    assert change(whole()).sha256() != whole().sha256()


def test_identity_sees_the_grids() -> None:
    def quantized(zero_point: int) -> Graph:
        weight = Int8.encode(np.ones((1, 2)), Quant(0.5, zero_point))
        return Graph("q", (2,), (Node("fc", ops.Linear(1), (INPUT,), weight),))

    assert quantized(1).sha256() != quantized(2).sha256()


NAN = float("nan")
WRONG: dict[str, tuple[Callable[[], Graph], type[Exception], str]] = {
    "empty": (lambda: whole().with_nodes([]), ShapeError, "whole: the graph has no nodes"),
    "twice": (lambda: changed("relu", name="bn"), ShapeError, "whole.bn: the name is used twice"),
    "called input": (lambda: changed("relu", name=INPUT), ShapeError, "whole.input: the name is used twice"),
    "later": (lambda: changed("bn", inputs=("fc",)), ShapeError,
              r"whole.bn: batchnorm reads \('fc',\); wanted 1 nodes that stand before it"),
    "itself": (lambda: changed("relu", inputs=("relu",)), ShapeError, r"whole.relu: relu reads \('relu',\)"),
    "unknown": (lambda: changed("relu", inputs=("nowhere",)), ShapeError, r"whole.relu: relu reads \('nowhere',\)"),
    "too few": (lambda: changed("add", inputs=("relu",)), ShapeError, r"whole.add: add reads \('relu',\); wanted 2"),
    "too many": (lambda: changed("relu", inputs=("bn", "bn")), ShapeError, r"whole.relu: relu reads .*; wanted 1"),
    "none": (lambda: changed("add", op=ops.Concat(), inputs=()), ShapeError, r"reads \(\); wanted one or more"),
    "shape": (lambda: changed("pool", op=ops.MaxPool2d((9, 9))), ShapeError, "whole.pool: window of 9 .* does not fit"),
    "weight shape": (lambda: changed("fc", op=ops.Linear(4)), ShapeError,
                     r"whole.fc: weight is \(5, 12\), linear wants \(4, 12\) \(rows, cols\)"),
    "no weight": (lambda: changed("fc", weight=None), ShapeError, r"whole.fc: weight is None, linear wants \(5, 12\)"),
    "needless weight": (lambda: changed("relu", weight=Dense.encode(np.ones((1, 1)))), ShapeError,
                        r"whole.relu: weight is \(1, 1\), relu wants None"),
    "bias shape": (lambda: changed("fc", bias=f32(1, 2)), ShapeError, r"bias is float32 \(2,\), wanted float32 \(5,\)"),
    "bias dtype": (lambda: changed("fc", bias=np.ones(5)), ShapeError, r"bias is float64 \(5,\), wanted float32"),
    "bias nan": (lambda: changed("fc", bias=f32(0, 0, NAN, 0, NAN)), FormatError,
                 r"whole.fc.bias: 2 values are not finite, the first is nan at \(2,\)"),
    "needless bias": (lambda: changed("relu", bias=f32(1)), ShapeError, r"whole.relu: bias is float32 \(1,\), wanted"),
    "no mean": (lambda: changed("bn", mean=None), ShapeError, "whole.bn: batchnorm needs mean"),
    "no var": (lambda: changed("bn", var=None), ShapeError, "whole.bn: batchnorm needs var"),
    "var negative": (lambda: changed("bn", var=f32(1, -1, 1)), ShapeError, "whole.bn: var is negative at channel 1"),
    "var infinite": (lambda: changed("bn", var=f32(1, 1, np.inf)), FormatError, "whole.bn.var: 1 values are not"),
    "weight nan": (lambda: changed("fc", weight=Dense(np.full((5, 12), NAN, np.float32))), FormatError,
                   "whole.fc: dense.values: 60 values are not finite"),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "error", "message"), WRONG.values(), ids=WRONG)
def test_check_refuses(graph: Callable[[], Graph], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        graph().check()
