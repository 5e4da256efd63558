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
from refstack.compression.magnitude import smallest_to_zero
from refstack.compression.ternary import threshold
from refstack.datasets import Dataset, preprocess
from refstack.errors import FormatError, ShapeError, UsageError
from refstack.formats import Csr, Dense, Ternary
from refstack.graph import Graph
from refstack.models import MODELS
from refstack.models.zoo import draw, load
from refstack.passes import prepare
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
