"""Channel pruning: which layers may shrink, which channels go, and how later layers make up for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import chain, formats, images, integers, matrix, small

from refstack.compression import compress
from refstack.compression.channel import prunable, units
from refstack.formats import Dense
from refstack.graph import INPUT, Graph
from refstack.models import MODELS
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.passes import fold_batchnorm, prepare
from refstack.reference import run


def test_the_prunable_layers_are_the_studys() -> None:
    vgg, resnet, mobilenet = (prunable(MODELS[name]()) for name in ("vgg16", "resnet18", "mobilenet"))
    assert vgg == tuple(name for name in formats(MODELS["vgg16"]()) if name != "fc2")
    assert resnet == tuple(f"layer{stage}_{block}_conv1" for stage in (1, 2, 3, 4) for block in (1, 2))
    assert mobilenet == tuple(f"pw{i}" for i in range(1, 14))
    for model, names in (("vgg16", vgg), ("resnet18", resnet), ("mobilenet", mobilenet)):
        assert prunable(prepare(MODELS[model]())) == names


@pytest.mark.parametrize("prepared", [False, True])
def test_layers_that_add_up_are_one_unit(prepared: bool) -> None:
    resnet, mobilenet = (
        prepare(graph) if prepared else graph for graph in (MODELS["resnet18"](), MODELS["mobilenet"]())
    )
    alone = {name: (name,) for name in prunable(resnet)}
    stage = {n: tuple(f"layer{n}_{part}" for part in ("1_conv2", "1_proj", "2_conv2")) for n in (2, 3, 4)}
    streams = [("conv1", "layer1_1_conv2", "layer1_2_conv2"), *stage.values()]
    assert units(resnet) == alone | {names[0]: names for names in streams}
    assert list(units(resnet))[:2] == ["conv1", "layer1_1_conv1"], "in the graph's order"
    assert units(mobilenet) == {name: (name,) for name in prunable(mobilenet)}


def test_an_addition_of_the_input_or_the_output_keeps_all() -> None:
    net = Builder("ends", (4, 4, 4)).conv("a", 4, 1).add("sum", INPUT, "a").conv("b", 3, 1)
    assert units(net.graph()) == {}
    free = Builder("free", (4, 4, 4)).conv("a", 4, 1).conv("b", 4, 1).add("sum", "a", "b").globalavgpool().flatten()
    assert units(free.linear("fc", 2).graph()) == {"a": ("a", "b")}


def test_what_joins_others_stays() -> None:
    assert prunable(small()) == ("stem", "mid", "fc1")
    net = Builder("groups", (4, 4, 4)).conv("a", 4, 1).conv("b", 6, 3, padding=1, groups=2).conv("c", 4, 1)
    assert prunable(net.globalavgpool().flatten().linear("fc", 2).graph()) == ("c",)


@pytest.mark.parametrize("level", [0, 0.25, 0.5, 0.99])
def test_channels_of_the_smallest_norm_go(level: float) -> None:
    graph = draw(chain(), 3)
    pruned, folded = compress(graph, "channel", level), fold_batchnorm(graph)
    for name, width in {"a": 6, "b": 8, "c": 8, "fc1": 10}.items():
        left = width - min(width - 1, int(level * width))
        assert pruned.shapes()[name][1] == left
        norms = np.abs(matrix(folded, name)).sum(axis=1, dtype=np.float64)
        best = np.sort(np.argsort(norms)[width - left :])
        bias, before = pruned[name].bias, folded[name].bias
        assert bias is not None
        assert before is not None
        np.testing.assert_array_equal(bias, before[best])
    assert pruned.shapes()["fc2"] == (1, 4)


def test_channels_that_are_nothing_are_not_missed() -> None:
    """Half of the filters give 0 for every image: without them the output is the same, exactly."""
    graph = integers(chain(), 5)
    nodes = []
    for node in graph:
        if node.weight is not None and node.name != "fc2":
            mask = np.arange(node.weight.shape[0]) % 2
            bias = None if node.bias is None else node.bias * mask.astype(np.float32)
            node = replace(node, weight=Dense.encode(node.weight.decode() * mask[:, None]), bias=bias)
        nodes.append(node)
    graph = graph.with_nodes(nodes)
    x = images(graph, 4, whole=True)
    pruned = compress(graph, "channel", 0.5)
    assert pruned.params < 0.5 * graph.params
    assert len(np.unique(run(graph, x))) > 4
    np.testing.assert_array_equal(run(pruned, x), run(graph, x))


def doubled(graph: Graph) -> Graph:
    """Filters 1, 3, 5 .. are half of filters 0, 2, 4 ..: after ReLU one channel says what two did."""
    nodes = []
    for node in prepare(graph):
        if node.weight is not None and node.name != "fc2":
            assert node.bias is not None
            matrix, bias = node.weight.decode(), node.bias.copy()
            matrix *= 8 / np.abs(matrix).sum(axis=1, keepdims=True)  # equal norms, so that the halves are the smallest
            matrix[1::2], bias[1::2] = matrix[::2] / 2, bias[::2] / 2
            node = replace(node, weight=Dense(matrix), bias=bias)
        nodes.append(node)
    return graph.with_nodes(nodes)


def test_later_layers_make_up_for_lost_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = doubled(draw(chain(), 4))
    x, other = images(graph, 40, seed=2), images(graph, 10, seed=3)
    wanted = run(graph, other.astype(np.float64))

    def error(**given: Any) -> float:
        pruned = compress(graph, "channel", 0.5, **given)
        assert pruned.shapes()["b"] == (1, 4, 8, 8)
        return float(np.abs(run(pruned, other.astype(np.float64)) - wanted).max() / np.abs(wanted).max())

    plain, calibrated = error(), error(calibration=x)
    assert plain > 0.1
    assert calibrated < plain / 20
    # Nothing is lost but the ridge and one rounding of each weight in four layers
    monkeypatch.setattr("refstack.compression.channel.RIDGE", 1e-12)
    assert error(calibration=x) < 1e-5


def test_reconstruction_changes_nothing_that_lost_nothing() -> None:
    graph = draw(small(), 4)
    calibrated = compress(graph, "channel", 0.0, calibration=images(graph, 20))
    assert calibrated.sha256() == prepare(graph).sha256()
    pruned, plain = (compress(graph, "channel", 0.5, **given) for given in ({"calibration": images(graph, 20)}, {}))
    for node in plain:
        if node.weight is not None:  # mid and back read what stem and mid lost; nothing else is refitted
            same = np.array_equal(matrix(pruned, node.name), node.weight.decode())
            assert same == (node.name not in ("mid", "back", "proj", "fc2")), node.name


def test_dead_channels_do_no_harm_to_the_fit() -> None:
    graph = prepare(draw(chain(), 4))
    silent = {"weight": Dense(np.zeros((6, 27), np.float32)), "bias": np.full(6, -1, np.float32)}
    graph = graph.with_nodes([replace(n, **silent) if n.name == "a" else n for n in graph])
    pruned = compress(graph, "channel", 0.5, calibration=images(graph, 20))
    assert np.isfinite(run(pruned, images(graph))).all()
