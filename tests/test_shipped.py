"""Every shipped point computes what PyTorch computed with it, and fits in what a clone may weigh.

The NumPy engine on 1,000 images, some minutes a network: pytest tests/test_shipped.py --cifar10=DIR --numpy-images=1000
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refstack import checkpoint, datasets
from refstack.backends import openmp
from refstack.compression.structure import build, structure
from refstack.datasets import Dataset, preprocess
from refstack.evaluation import evaluate
from refstack.formats import Array
from refstack.models import MODELS, zoo
from refstack.models.points import Point
from refstack.reference import run

POINTS = zoo.points()
SHIPPED = [point for point in POINTS if point.file]
MOST_BYTES = 26_000_000
ARCHIVES = {"cifar10-lossless-val": "val-lossless.tar.xz", "cifar10-jpeg75-test": "test.tar.xz"}
IMAGES = 1000
each_shipped = pytest.mark.parametrize("point", SHIPPED, ids=lambda point: point.name)


@pytest.fixture(scope="module")
def judges(cifar10: Path) -> Callable[[str], Dataset]:
    """A published set by its name, read once."""
    return functools.cache(lambda name: datasets.load(cifar10 / ARCHIVES[name]))


def test_points_fit_beside_the_dense_checkpoints() -> None:
    files = [zoo.data_dir() / name for point in SHIPPED for name in (point.file, point.golden) if name]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert len(set(files)) == len(files)


def test_figures_of_every_point_are_consistent() -> None:
    for point in POINTS:
        assert point.model in MODELS
        assert point.nnz == sum(line.nnz for line in point.layers)
        assert point.nnz <= point.params
        assert point.stored_bytes >= point.nnz / 4
        assert point.accuracy, point.name
        for name, found in point.accuracy.items():
            assert name in ARCHIVES
            assert found["n"] == {"cifar10-lossless-val": 2000, "cifar10-jpeg75-test": 10000}[name]
            assert found["top1"] == pytest.approx(100 * found["correct"] / found["n"])


FIRSTS = list({(point.model, point.technique): point for point in reversed(POINTS)}.values())


@pytest.mark.parametrize("point", FIRSTS, ids=lambda point: point.name)
def test_a_network_like_it_can_be_built(point: Point) -> None:
    like = build(point)
    assert (like.params, like.macs) == (point.params, point.macs)
    assert abs(checkpoint.stored_bytes(like, "float16") / point.stored_bytes - 1) < 0.02


@each_shipped
def test_the_file_is_what_its_record_says(point: Point) -> None:
    graph = zoo.load(point.name)
    assert structure(graph) == point.layers
    assert (graph.params, graph.macs, graph.nnz) == (point.params, point.macs, point.nnz)
    assert checkpoint.stored_bytes(graph, "float16") == point.stored_bytes


def disagreement(y: Array, y64: Array, golden: dict[str, Array]) -> float:
    """As in test_train.py: largest distance from PyTorch's logits over what rounding allows."""
    allowed = 8 * np.abs(y - y64).max()
    worst = np.abs(y - golden["logits"]).max() / allowed
    return float(max(worst, np.abs(y64 - golden["logits64"]).max() / (allowed * 2.0**-29)))


@pytest.mark.parametrize(
    "point", [each for each in SHIPPED if "int8" not in each.technique], ids=lambda each: each.name
)
def test_the_engine_gives_pytorchs_logits(point: Point) -> None:
    """int8 is not PyTorch's: its classes are held to the record below."""
    graph, golden = zoo.load(point.name), zoo.golden(point.name)
    x = preprocess(zoo.golden(point.model)["inputs"])
    assert x.shape == (16, 3, 32, 32)
    y, y64 = run(graph, x), run(graph, x.astype(np.float64))
    assert disagreement(y, y64, golden) <= 1
    off = golden["logits64"] * np.where(np.arange(10) == 3, 1 + 1e-9, 1)
    assert not disagreement(y, y64, golden | {"logits64": off}) <= 1, "one part in a billion shows"


@pytest.mark.parametrize("name", ARCHIVES)
@each_shipped
def test_recorded_predictions_give_the_recorded_accuracy(
    point: Point, name: str, judges: Callable[[str], Dataset]
) -> None:
    predictions = zoo.golden(point.name)[f"predictions.{name}"]
    assert (predictions == judges(name).labels).sum() == point.accuracy[name]["correct"]


@each_shipped
def test_the_numpy_engine_gives_the_recorded_classes(
    point: Point, judges: Callable[[str], Dataset], request: pytest.FixtureRequest
) -> None:
    count = request.config.getoption("--numpy-images")
    found = evaluate(zoo.load(point.name), judges("cifar10-lossless-val"), "numpy", limit=count)
    assert found.compared == count
    assert found.passed, found.departures


@each_shipped
def test_the_openmp_kernels_give_the_recorded_classes(point: Point, judges: Callable[[str], Dataset]) -> None:
    if reason := openmp.unavailable():
        pytest.skip(f"openmp: {reason}")
    dataset = judges("cifar10-lossless-val")
    found = evaluate(zoo.load(point.name), dataset, "openmp", limit=IMAGES)
    assert found.compared == IMAGES
    assert found.passed, found.departures
    golden = zoo.golden(point.name)["predictions.cifar10-lossless-val"]
    position = {name: i for i, name in enumerate(dataset.names)}
    recorded = golden[[position[name] for name in dataset.subset(IMAGES).names]]
    assert int((found.predictions != recorded).sum()) == len(found.departures) <= 5
