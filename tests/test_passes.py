"""Folding and fusing leave the function as it is; shrinking removes channels and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import images, integers, small

from refstack import ops
from refstack.errors import FormatError, ShapeError, UsageError
from refstack.formats import Array, Csr, Dense
from refstack.graph import INPUT, Graph, Node
from refstack.models import MODELS
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.passes import fold_batchnorm, fuse_relu, prepare, shrink_channels
from refstack.reference import layer, run, trace

U = 2.0**-24


def original(graph: Graph, name: str) -> str:
    """The node of the unprepared graph whose value a prepared node computes."""
    names = [node.name for node in graph]
    return next(each for each in (f"{name}_relu", f"{name}_bn", name) if each in names)


def absolute(node: Node) -> Node:
    """The same layer on absolute values and without activation: S of the error bound."""
    assert node.weight is not None
    bias = None if node.bias is None else np.abs(node.bias)
    return replace(node, op=replace(node.op, activation=None), weight=Dense(np.abs(node.weight.decode())), bias=bias)


def assert_prepared(graph: Graph, prepared: Graph, x: Array) -> int:
    """Every layer of `prepared`, fed with the original's values, gives the original's value within the bound.

    Both run in float64, so all that differs is the rounding of w' and b', u relative each: |error| <= u * S, and the
    float64 sums of at most 4609 terms, below 2**-15 of that.
    """
    values = trace(graph, x.astype(np.float64))
    compared = 0
    for node in prepared:
        inputs = [values[name if name == INPUT else original(graph, name)] for name in node.inputs]
        wanted, got = values[original(graph, node.name)], layer(node, *inputs)
        limit: Array | float = 0.0
        if node.weight is not None:
            limit = U * (1 + 2**-15) * layer(absolute(node), *(np.abs(value) for value in inputs))
        assert wanted.shape == got.shape
        assert (np.abs(got - wanted) <= limit).all(), node.name
        compared += got.size
    return compared


# Fold and fuse


def test_folding_is_exact_on_integers() -> None:
    graph = integers(small())
    prepared, x = prepare(graph), images(graph, whole=True)
    wanted = run(graph, x)
    assert np.abs(trace(graph, x.astype(np.float64))["fc2"]).max() < 2**24
    assert len(np.unique(wanted)) > 4  # not a constant
    np.testing.assert_array_equal(run(prepared, x), wanted)
    np.testing.assert_array_equal(run(fold_batchnorm(graph), x), wanted)
    np.testing.assert_array_equal(run(fuse_relu(graph), x), wanted)


def test_folding_is_within_one_rounding_of_each_weight() -> None:
    graph = draw(small(), 5)
    assert assert_prepared(graph, prepare(graph), images(graph)) > 2000


@pytest.mark.parametrize("model", MODELS)
def test_the_models_are_folded_and_fused_whole(model: str) -> None:
    graph = draw(MODELS[model](), 2)
    prepared = prepare(graph)
    left = {type(node.op) for node in prepared}
    assert not left & {ops.BatchNorm, ops.ReLU}
    layers = [node for node in graph if isinstance(node.op, ops.Conv2d | ops.Linear | ops.Add)]
    moved = {ops.MaxPool2d: 5, ops.GlobalAvgPool: 0, ops.Flatten: 1} if model == "vgg16" else {ops.GlobalAvgPool: 1}
    assert len(prepared.nodes) == len(layers) + sum(moved.values()) + (model != "vgg16")
    assert prepared.macs == graph.macs
    assert prepared.output == graph.output
    assert assert_prepared(graph, prepared, images(graph, 1)) > 100_000


def test_vgg_has_the_papers_parameters_when_folded() -> None:
    assert prepare(MODELS["vgg16"]()).params == 14_982_474


@pytest.mark.parametrize("fault", ["sign of mean", "no eps", "no square root", "bias lost"])
def test_the_bound_catches_a_wrong_fold(fault: str) -> None:
    graph = draw(small(), 5)
    prepared = prepare(graph)
    norm, conv = graph["mid_bn"], graph["mid"]
    assert norm.var is not None
    assert norm.mean is not None
    a = norm.weight.decode()[:, 0] / np.sqrt(norm.var + norm.op.eps)
    wrong = {
        "sign of mean": {"bias": norm.bias + a * norm.mean},
        "no eps": {"weight": Dense.encode(norm.weight.decode() / np.sqrt(norm.var)[:, None] * conv.weight.decode())},
        "no square root": {
            "weight": Dense.encode((norm.weight.decode()[:, 0] / norm.var)[:, None] * conv.weight.decode())
        },
        "bias lost": {"bias": None},
    }[fault]
    nodes = [replace(node, **wrong) if node.name == "mid" else node for node in prepared]
    with pytest.raises(AssertionError, match="mid"):
        assert_prepared(graph, prepared.with_nodes(nodes), images(graph))


def test_a_convolution_with_a_bias_and_a_norm_without() -> None:
    graph = integers(small())
    nodes = [replace(n, bias=np.arange(4, dtype=np.float32)) if n.name == "stem" else n for n in graph]
    nodes = [replace(n, bias=None) if n.name == "stem_bn" else n for n in nodes]
    graph = graph.with_nodes(nodes)
    x = images(graph, whole=True)
    np.testing.assert_array_equal(run(prepare(graph), x), run(graph, x))


def test_what_is_read_twice_or_not_dense_or_activated_stays() -> None:
    graph = integers(small())
    conv = graph["stem"]
    assert conv.weight is not None
    sparse = replace(conv, weight=Csr.encode(conv.weight.decode()))
    active = replace(conv, op=replace(conv.op, activation="relu"))
    for changed in (sparse, active):
        kept = fold_batchnorm(graph.with_nodes([changed if n.name == "stem" else n for n in graph]))
        assert [node.name for node in kept][:2] == ["stem", "stem_bn"]
    twice = Graph(
        "twice",
        (3, 8, 8),
        (
            conv,
            graph["stem_bn"],
            Node("relu", ops.ReLU(), ("stem",)),
            Node("sum", ops.Add(), ("stem_bn", "relu")),
            Node("relu6", ops.ReLU("relu6"), ("sum",)),
        ),
    )
    prepared, x = prepare(twice), images(twice, whole=True)
    assert [node.name for node in prepared] == ["stem", "stem_bn", "relu", "sum"]
    assert prepared["sum"].op == ops.Add("relu6")
    np.testing.assert_array_equal(run(prepared, x), run(twice, x))


def test_preparing_twice_changes_nothing() -> None:
    prepared = prepare(draw(small(), 0))
    assert prepare(prepared).sha256() == prepared.sha256()


# Shrink


def silenced(graph: Graph, keep: dict[str, list[int]]) -> Graph:
    """The whole network with every lost channel at 0 where it is computed: what shrinking must equal.

    Zero filter, zero batch-norm scale and shift; ReLU, pooling and additions keep a 0.
    """
    nodes = []
    for node in graph:
        source = node.name.removesuffix("_bn")
        source = {"dw": "back", "proj": "back"}.get(source, source)
        if source not in keep or node.weight is None:
            nodes.append(node)
            continue
        mask = np.zeros(node.weight.shape[0], np.float32)
        mask[keep[source]] = 1
        bias = None if node.bias is None else node.bias * mask
        nodes.append(replace(node, weight=Dense.encode(node.weight.decode() * mask[:, None]), bias=bias))
    return graph.with_nodes(nodes)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    "keep",
    [
        {},
        {"stem": [0, 3]},
        {"mid": [4]},
        {"back": [1, 2, 5], "proj": [1, 2, 5]},
        {"pw": [0, 2]},
        {"fc1": [0, 1, 6]},
        {"stem": [1], "mid": [0, 2], "back": [5], "proj": [5], "pw": [4], "fc1": [3]},
    ],
)
def test_shrinking_equals_silencing(keep: dict[str, list[int]], folded: bool) -> None:
    graph = integers(small(), 3)
    x = images(graph, whole=True)
    wanted = run(silenced(graph, keep), x)
    if keep and len(keep) < 4:
        assert (run(graph, x) != wanted).any()  # the lost channels matter
    graph = prepare(graph) if folded else graph
    shrunk = shrink_channels(graph, keep)
    np.testing.assert_array_equal(run(shrunk, x), wanted)
    shapes = shrunk.shapes()
    for name, indices in keep.items():
        assert shapes[name][1] == len(indices)
    assert (shrunk.params < graph.params) == bool(keep)
    assert (shrunk.macs < graph.macs) == bool(keep)
    if "back" in keep:
        assert (shrunk["dw"].op.groups, shrunk["dw"].op.out_channels) == (len(keep["back"]),) * 2


def test_shrinking_by_the_studys_lists() -> None:
    """Parameters of the pruned networks that the study's code has built in."""
    widths = (56, 62, 121, 127, 232, 229, 183, 134, 101, 70, 60, 64, 79)
    vgg = prepare(MODELS["vgg16"]())
    names = [node.name for node in vgg if isinstance(node.op, ops.Conv2d)]
    keep = {name: range(width) for name, width in zip(names, widths, strict=True)} | {"fc1": range(47)}
    shrunk = shrink_channels(vgg, keep)
    assert shrunk.params == 1_888_828
    assert round(shrunk.macs / 1e6, 1) == 164.9
    widths = (43, 85, 70, 150, 69, 188, 72, 122, 106, 96, 81, 75, 100)
    shrunk = shrink_channels(MODELS["mobilenet"](), {f"pw{i}": range(width) for i, width in enumerate(widths, 1)})
    assert round(shrunk.macs / 1e6, 2) == 8.02
    assert shrunk.params == 129_113
    widths = (13, 11, 31, 13, 40, 19, 19, 12)
    blocks = [f"layer{stage}_{block}_conv1" for stage in (1, 2, 3, 4) for block in (1, 2)]
    shrunk = shrink_channels(
        MODELS["resnet18"](), {name: range(width) for name, width in zip(blocks, widths, strict=True)}
    )
    assert shrunk.params == 763_846
    assert round(shrunk.macs / 1e6, 1) == 76.1


def test_shrinking_refuses() -> None:
    graph = draw(small(), 0)
    bad = "wanted rising channel numbers from 0 to 3, at least one"
    for indices in ([], [4], [-1], [1, 1], [2, 1], [0.5], [[0]], [True]):
        with pytest.raises(UsageError, match=bad):
            shrink_channels(graph, {"stem": indices})  # type: ignore[dict-item]
    for name in ("add", "stem_bn", "nothing"):
        with pytest.raises(UsageError, match=f"'{name}' is no convolution or linear layer"):
            shrink_channels(graph, {name: [0]})
    with pytest.raises(
        ShapeError, match=r"small.add: its inputs \('back_bn', 'proj_bn'\) keep different channels .2 and 6"
    ):
        shrink_channels(graph, {"back": [0, 1]})
    with pytest.raises(ShapeError, match=r"small\.add: its inputs"):
        shrink_channels(graph, {"back": [0, 1], "proj": [0, 2]})
    with pytest.raises(ShapeError, match=r"small\.dw: a depthwise convolution keeps the channels of its input"):
        shrink_channels(graph, {"dw": [0, 1]})
    with pytest.raises(ShapeError, match=r"small\.fc2: the network's output would lose channels"):
        shrink_channels(graph, {"fc2": [0]})
    mid = graph["mid"]
    assert mid.weight is not None
    sparse = graph.with_nodes(
        [replace(n, weight=Csr.encode(n.weight.decode())) if n is mid and n.weight else n for n in graph]
    )
    with pytest.raises(FormatError, match="mid: a csr weight cannot shrink; remove channels before encoding"):
        shrink_channels(sparse, {"stem": [0]})


def test_grouped_convolutions_keep_their_channels() -> None:
    net = Builder("groups", (4, 4, 4)).conv("a", 4, 1).conv("b", 6, 3, padding=1, groups=2).globalavgpool()
    graph = draw(net.flatten().linear("fc", 2).graph())
    for keep in ({"a": [0, 1]}, {"b": [0, 1]}):
        with pytest.raises(ShapeError, match=r"groups\.b: a convolution of 2 groups cannot lose single channels"):
            shrink_channels(graph, keep)


def test_depthwise_with_a_multiplier_follows_its_input() -> None:
    net = Builder("multiplier", (3, 4, 4)).conv("a", 3, 1).conv("dw", 6, 3, padding=1, groups=3).globalavgpool()
    graph = integers(net.flatten().linear("fc", 2).graph())
    shrunk, x = shrink_channels(graph, {"a": [0, 2]}), images(graph, whole=True)
    mask = np.array([[1], [0], [1]], np.float32)
    nodes = [replace(n, weight=Dense.encode(n.weight.decode() * mask)) if n.name == "a" else n for n in graph]
    np.testing.assert_allclose(run(shrunk, x), run(graph.with_nodes(nodes), x), rtol=0, atol=0)
    assert shrunk["dw"].weight.shape == (4, 9)
