"""Each technique does what its formula says, to the layers it names and to no others, and says so in its record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import chain, formats, images, integers, matrix, small

from refstack import checkpoint, datasets, ops
from refstack.compression import TECHNIQUES, compress, to_format
from refstack.compression.calibration import reestimate, smooth_images
from refstack.compression.channel import prunable, units
from refstack.compression.magnitude import smallest_to_zero
from refstack.compression.ternary import threshold
from refstack.datasets import Dataset, preprocess
from refstack.errors import FormatError, ShapeError, UsageError
from refstack.formats import Csr, Dense, Ternary
from refstack.graph import INPUT, Graph
from refstack.models import MODELS
from refstack.models.builder import Builder
from refstack.models.zoo import draw, load
from refstack.passes import fold_batchnorm, prepare
from refstack.reference import run, trace

NETWORKS = {"small": small, "chain": chain}
U = 2.0**-24


def options(graph: Graph, technique: str) -> dict[str, Any]:
    """What a technique needs on a network whose input is not 32 x 32."""
    return {"calibration": images(graph, 20, seed=7)} if technique == "int8" else {}


# Every technique


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("network", NETWORKS)
def test_graph_in_graph_out(network: str, technique: str, tmp_path: Path) -> None:
    graph = draw(NETWORKS[network](), 4)
    graph = replace(graph, meta={"model": "m", "technique": "dense", "sha256": "0", "accuracy": {"s": {"top1": 1}}})
    before = graph.sha256()
    compressed = compress(graph, technique, **options(graph, technique))
    assert graph.sha256() == before  # the input is left alone
    assert compressed.sha256() == compress(graph, technique, **options(graph, technique)).sha256()
    assert compressed.output == graph.output
    assert run(compressed, images(graph)).shape == (2, 4)

    record = json.loads(json.dumps(compressed.meta["compression"]))
    assert record["technique"] == technique
    lines = {line["name"]: line for line in record["layers"]}
    for node in compressed:
        if node.weight is not None and isinstance(node.op, ops.Conv2d | ops.Linear):
            line = lines.pop(node.name)
            assert (line["rows"], line["cols"]) == node.weight.shape
            assert (line["rows_before"], line["cols_before"]) == matrix(graph, node.name).shape
            assert (line["nnz"], line["bytes"]) == (np.count_nonzero(node.weight.decode()), node.weight.nbytes)
            assert line["format"] == node.weight.format
    assert not lines
    if technique == "dense":
        assert compressed.meta["accuracy"] == {"s": {"top1": 1}}
        assert compressed.meta["sha256"] == "0"
    else:  # the trained file's accuracy and hash are not this one's
        assert "accuracy" not in compressed.meta
        assert record["of"] == {"technique": "dense", "sha256": "0", "accuracy": {"s": {"top1": 1}}}
        assert compressed.meta["technique"] == technique
        assert compressed.sha256() != compress(graph, "dense").sha256()

    checkpoint.save(compressed, tmp_path / "m")  # which also proves that every int8 layer reads its own grid
    back = checkpoint.load(tmp_path / "m")
    assert back.sha256() == compressed.sha256()
    assert back.meta["compression"] == record


@pytest.mark.parametrize("model", MODELS)
def test_the_models_compress(model: str) -> None:
    graph = draw(MODELS[model](), 1)
    params, last = prepare(graph).params, {"vgg16": "fc2"}.get(model, "fc")
    first = "conv1_1" if model == "vgg16" else "conv1"
    found = {technique: compress(graph, technique) for technique in TECHNIQUES}
    assert {f for name, f in formats(found["weight"]).items() if not name.startswith("dw")} == {"dense", "csr"}
    assert [name for name, f in formats(found["weight"]).items() if f == "dense"] == [
        name for name in formats(graph) if name == first or name.startswith("dw")
    ]
    assert [name for name, f in formats(found["ternary"]).items() if f == "dense"] == [first, last]
    assert [name for name, f in formats(found["int8"]).items() if f == "dense"] == [last]
    assert set(formats(found["channel"]).values()) == {"dense"}
    assert found["channel"].params < 0.6 * params
    assert found["weight"].nnz < 0.12 * params
    sizes = {technique: compressed.stored_bytes for technique, compressed in found.items()}
    assert sizes["ternary"] < sizes["int8"] < 0.27 * sizes["dense"]
    assert sizes["weight"] < 0.25 * sizes["dense"]


def test_dense_folds_and_fuses_only() -> None:
    graph = draw(small(), 0)
    assert compress(graph, "dense").sha256() == prepare(graph).sha256()


def test_what_is_asked_wrongly() -> None:
    graph = draw(small(), 0)
    for technique, given, match in (
        ("prune", {}, "unknown technique 'prune', wanted one of dense, weight, channel, ternary, int8"),
        ("dense", {"level": 0.5}, "dense takes no level; it takes no options"),
        ("int8", {"level": 0.5}, "int8 takes no level; it takes calibration, ranges"),
        ("weight", {"ratio": 2}, "weight takes no ratio; it takes level, scope, calibration"),
        ("weight", {"level": 1}, "weight: level is 1, wanted a share of at least 0 and below 1"),
        ("weight", {"level": -0.1}, "weight: level is -0.1"),
        ("weight", {"level": float("nan")}, "weight: level is nan"),
        ("channel", {"level": "half"}, "channel: level is 'half'"),
        ("ternary", {"level": 1.5}, "ternary: level is 1.5"),
        ("weight", {"scope": "row"}, "weight: scope 'row', wanted layer or global"),
        ("int8", {"ranges": "max", "calibration": images(graph)}, "int8: ranges 'max', wanted minmax or mse"),
    ):
        with pytest.raises(UsageError, match=match):
            compress(graph, technique, **given)
    for bad in (images(graph)[:0], images(graph).astype(np.float64), images(graph)[:, :2], images(graph)[0]):
        for technique in ("int8", "weight"):
            with pytest.raises(ShapeError, match=r"small: calibration images are .*, wanted float32 \(n, 3, 8, 8\)"):
                compress(graph, technique, calibration=bad)
    with pytest.raises(UsageError, match="calibration images hold values that are not finite"):
        compress(graph, "int8", calibration=images(graph) * np.float32(np.inf))
    with pytest.raises(UsageError, match="no batch-norm is left to be calibrated; compress the network as it was"):
        compress(prepare(graph), "weight", calibration=images(graph))


def test_calibration_stands_in_the_record_by_its_hash() -> None:
    graph = draw(small(), 0)
    x = images(graph, 3)
    used = [compress(graph, "weight", calibration=each).meta["compression"]["options"] for each in (x, x, x + 1)]
    assert used[0]["scope"] == "layer"
    assert used[0]["calibration"]["images"] == 3
    assert used[0] == used[1] != used[2]


# Weight pruning


@pytest.mark.parametrize("level", [0, 0.3, 0.9, 0.999])
def test_the_smallest_weights_go(level: float) -> None:
    graph = draw(small(), 2)
    pruned = compress(graph, "weight", level)
    for name, format in formats(pruned).items():
        before, after = matrix(graph, name), matrix(pruned, name)
        gone = after == 0
        if name in ("stem", "dw"):
            assert format == "dense"
            np.testing.assert_array_equal(after, matrix(prepare(graph), name))
            continue
        assert format == "csr"
        assert gone.sum() == int(level * gone.size + 1e-9)
        if gone.any():
            assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()
        np.testing.assert_array_equal(after[~gone], matrix(prepare(graph), name)[~gone])  # what stays is not changed


def test_pruning_over_all_layers() -> None:
    graph = draw(small(), 2)
    pruned = compress(graph, "weight", 0.7, scope="global")
    names = [name for name, format in formats(pruned).items() if format == "csr"]
    before = np.concatenate([matrix(graph, name).ravel() for name in names])
    gone = np.concatenate([matrix(pruned, name).ravel() for name in names]) == 0
    assert gone.sum() == int(0.7 * gone.size + 1e-9)
    assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()
    shares = [float((matrix(pruned, name) == 0).mean()) for name in names]
    assert max(shares) - min(shares) > 0.2  # layers of larger weights keep more


def test_ties_and_decimal_levels_give_exact_counts() -> None:
    assert np.count_nonzero(smallest_to_zero(np.ones((10, 10), np.float32), 0.29)) == 71
    assert np.count_nonzero(smallest_to_zero(np.ones((10, 10), np.float32), 0.7)) == 30
    np.testing.assert_array_equal(smallest_to_zero(np.array([[3.0, -1, 2, -4]]), 0.5), [[3, 0, 0, -4]])


# Channel pruning


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


# Ternary


def test_ternary_is_the_formula() -> None:
    w = np.array([[1.0, -0.5, 0.1, -0.1], [0.2, 0.6, -0.9, 0.05]], np.float32)
    wanted = np.array([[0.6, -0.7, 0, 0], [0.6, 0.6, -0.7, 0]], np.float32)
    np.testing.assert_allclose(threshold(w, 0.15), wanted, rtol=2 * U)
    np.testing.assert_array_equal(threshold(w, 0.999) != 0, w == 1)
    np.testing.assert_array_equal(
        threshold(-np.abs(w), 0.0), np.full((2, 4), -np.abs(w).mean(dtype=np.float64), np.float32)
    )
    np.testing.assert_array_equal(threshold(0 * w, 0.5), 0 * w)


def test_ternary_leaves_the_ends_and_the_norms() -> None:
    graph = draw(chain(), 2)
    ternary = compress(graph, "ternary", 0.1)
    assert formats(ternary) == {"a": "dense", "b": "ternary", "c": "ternary", "fc1": "ternary", "fc2": "dense"}
    assert [node.name for node in ternary if isinstance(node.op, ops.BatchNorm)] == ["b_bn", "c_bn"]
    for name in ("b", "c", "fc1"):
        np.testing.assert_array_equal(matrix(ternary, name), threshold(matrix(graph, name), 0.1))
        assert isinstance(ternary[name].weight, Ternary)
    for name in ("a", "fc2"):
        np.testing.assert_array_equal(matrix(ternary, name), matrix(prepare(graph), name))
    assert ternary["fc1"].op == ops.Linear(10, "relu")


def test_a_ternary_network_stays_what_it_is() -> None:
    """With level 0 and weights of -1, 0 and 1 the scales are 1: exactly the same network."""
    graph = integers(chain(), 1)
    x = images(graph, whole=True)
    np.testing.assert_array_equal(run(compress(graph, "ternary", 0), x), run(graph, x))


# Batch-norm statistics


def test_reestimated_statistics_are_those_of_the_images() -> None:
    graph, x = draw(small(), 6), images(small(), 12)
    fresh = reestimate(graph, x)
    values, norms = trace(fresh, x), 0
    for node in fresh:
        if isinstance(node.op, ops.BatchNorm):
            source = values[node.inputs[0]].astype(np.float64)
            np.testing.assert_allclose(node.mean, source.mean((0, 2, 3)), rtol=U, atol=1e-12)
            np.testing.assert_allclose(node.var, source.var((0, 2, 3)), rtol=2 * U)
            norms += 1
        else:
            assert node is graph[node.name]
    assert norms == 6
    assert reestimate(graph, None) is graph


def test_reestimation_undoes_a_change_of_scale() -> None:
    """Doubled weights are doubled statistics: the network is the same again up to eps and rounding."""
    graph, x = draw(chain(), 6), images(chain(), 12)
    tiny = [replace(n, op=ops.BatchNorm(1e-12)) if isinstance(n.op, ops.BatchNorm) else n for n in graph]
    graph = graph.with_nodes(tiny)
    double = [replace(n, weight=Dense(2 * n.weight.decode())) if n.name == "b" and n.weight else n for n in graph]
    once, twice = reestimate(graph, x), reestimate(graph.with_nodes(double), x)
    np.testing.assert_array_equal(once["c_bn"].mean, twice["c_bn"].mean)
    assert (once["b_bn"].mean != twice["b_bn"].mean).all()


def test_made_up_images() -> None:
    x = smooth_images(5, 1)
    assert (x.dtype, x.shape) == (np.float32, (5, 3, 32, 32))
    np.testing.assert_array_equal(x, smooth_images(5, 1))
    assert (x != smooth_images(5, 2)).any()
    assert -2.5 < x.min() < -1.5
    assert 1.5 < x.max() < 2.8


# Trained networks, on images


def top1(graph: Graph, dataset: Dataset) -> np.ndarray:
    return np.concatenate([run(graph, x).argmax(axis=1) for x, _ in dataset.batches(50)])


def test_int8_keeps_the_classes_of_a_trained_network(cifar10: Path) -> None:
    """99.7 % of 300 images were measured; 0.95 leaves room for other BLAS libraries and catches a wrong grid."""
    graph, dataset = load("mobilenet"), datasets.load(cifar10 / "val-lossless.tar.xz").subset(100)
    assert (top1(compress(graph, "int8"), dataset) == top1(compress(graph, "dense"), dataset)).mean() >= 0.95


def test_calibration_repairs_a_trained_network(cifar10: Path) -> None:
    """Measured on 500 images: weights 10.8 -> 62.8 %, channels 20 -> 78 %."""
    graph, dataset = load("mobilenet"), datasets.load(cifar10 / "val-lossless.tar.xz").subset(100)
    x = preprocess(datasets.load(cifar10 / "train.tar.xz").subset(128).images)
    for technique, level in (("weight", 0.9), ("channel", 0.3)):
        plain, repaired = (
            (top1(compress(graph, technique, level, **given), dataset) == dataset.labels).mean()
            for given in ({}, {"calibration": x})
        )
        assert repaired > plain + 0.25, technique


# Formats


def test_to_format_keeps_the_numbers() -> None:
    graph = draw(small(), 0)
    assert to_format(to_format(graph, "bsr"), "dense").sha256() == graph.sha256()
    sparse = to_format(graph, "csr")
    assert set(formats(sparse).values()) == {"csr"}
    assert all(isinstance(sparse[name].weight, Csr) for name in formats(sparse))
    assert to_format(sparse, "dense").sha256() == graph.sha256()
    ternary = to_format(integers(small()), "ternary")
    assert set(formats(ternary).values()) == {"ternary"}
    with pytest.raises(FormatError, match="wanted at most one of each; compress the graph with technique 'ternary'"):
        to_format(graph, "ternary")
    with pytest.raises(
        UsageError, match="no exact format 'int8', wanted one of dense, csr, bsr, ternary; int8 is a technique"
    ):
        to_format(graph, "int8")
    with pytest.raises(UsageError, match="no exact format 'coo'"):
        to_format(graph, "coo")
