"""Accuracy is counted right, and a departure from the record is explained by rounding or is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benching import tiny

from refstack.datasets import CLASSES, Dataset, preprocess
from refstack.errors import UsageError
from refstack.evaluation import classify, evaluate
from refstack.graph import Graph
from refstack.models import zoo
from refstack.reference import run


@pytest.fixture
def dataset() -> Dataset:
    """50 images of 8 x 8, five of each class."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 3, 8, 8), np.uint8)
    return Dataset("noise", images, np.repeat(np.arange(10), 5), "sha", "here", tuple(f"{i}.png" for i in range(50)))


def logits_of(graph: Graph, dataset: Dataset) -> Any:
    return run(graph, preprocess(dataset.images).astype(np.float64))


@pytest.mark.parametrize("batch", [1, 7, 32, 50, 64])
@pytest.mark.parametrize("backend", ["numpy", "blas"])
def test_it_counts_what_the_reference_counts(dataset: Dataset, backend: str, batch: int) -> None:
    wanted = logits_of(tiny(), dataset).argmax(axis=1)
    found = evaluate(tiny(), dataset, backend, 1, batch)
    assert found.predictions.tolist() == wanted.tolist()
    assert (found.correct, found.n) == (int((wanted == dataset.labels).sum()), 50)
    assert found.top1 == 100 * found.correct / 50
    assert (found.compared, found.passed) == (0, True)


def test_a_limit_takes_classes_in_turn(dataset: Dataset) -> None:
    found = evaluate(tiny(), dataset, "numpy", limit=20)
    assert (found.n, found.dataset) == (20, "noise-balanced20")
    assert evaluate(tiny(), dataset, "numpy", limit=1000).n == 50
    with pytest.raises(UsageError, match="limit is 0, wanted at least 1 image"):
        evaluate(tiny(), dataset, "numpy", limit=0)


def shipped(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, folder: Path, change: dict[int, int], margin: float | None = None
) -> Graph:
    """A network that counts as shipped, whose record differs from the truth at `change` {image: class}."""
    graph = replace(tiny(), meta={"model": "tiny", "sha256": "abc"})
    y = logits_of(graph, dataset)
    predictions = y.argmax(axis=1).astype(np.uint8)
    second, first = np.sort(y, axis=1)[:, -2:].T
    margins = (first - second).astype(np.float16)
    for image, label in change.items():
        predictions[image] = label
        margins[image] = margins[image] if margin is None else margin
    golden = {
        "predictions.noise": predictions,
        "margin.noise": margins,
        "logits": y[:16].astype(np.float32),
        "logits64": y[:16],
    }
    (folder / "manifest.json").write_text("{}")
    monkeypatch.setattr(zoo, "data_dir", lambda: folder)
    monkeypatch.setattr(zoo, "manifest", lambda: {"tiny": {"sha256": "abc"}})
    monkeypatch.setattr(zoo, "golden", lambda model: golden)
    monkeypatch.setattr(zoo, "load", lambda name: graph)
    return graph


def test_a_network_that_follows_its_record_passes(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = shipped(dataset, monkeypatch, tmp_path, {})
    found = evaluate(graph, dataset, "blas")
    assert (found.compared, found.departures, found.passed) == (50, (), True)


def test_a_departure_with_a_large_margin_fails(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = logits_of(tiny(), dataset).argmax(axis=1)
    graph = shipped(dataset, monkeypatch, tmp_path, {3: (wanted[3] + 1) % 10})
    found = evaluate(graph, dataset, "blas")
    (departure,) = found.departures
    assert (departure.index, departure.image, departure.label) == (3, "3.png", 0)
    assert (departure.predicted, departure.recorded) == (wanted[3], (wanted[3] + 1) % 10)
    assert departure.margin > departure.allowed > 0
    assert not found.passed


def test_a_departure_within_rounding_passes(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = logits_of(tiny(), dataset).argmax(axis=1)
    graph = shipped(dataset, monkeypatch, tmp_path, {3: (wanted[3] + 1) % 10}, margin=0.0)
    found = evaluate(graph, dataset, "blas")
    assert len(found.departures) == 1
    assert found.passed


def test_a_subset_is_held_against_the_same_images(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = logits_of(tiny(), dataset).argmax(axis=1)
    graph = shipped(dataset, monkeypatch, tmp_path, {i: (wanted[i] + 1) % 10 for i in (5, 49)})
    found = evaluate(graph, dataset, "numpy", limit=10)  # the first of each class: images 0, 5, 10 ..
    assert [departure.image for departure in found.departures] == ["5.png"]
    assert found.compared == 10


@pytest.mark.parametrize("meta", [{"sha256": "other"}, {"compression": {"technique": "weight"}}, {"model": "else"}])
def test_other_networks_have_no_record(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, meta: dict[str, Any]
) -> None:
    graph = shipped(dataset, monkeypatch, tmp_path, {0: 0})
    assert evaluate(replace(graph, meta={**graph.meta, **meta}), dataset, "numpy").compared == 0
    assert evaluate(graph, replace(dataset, name="other"), "numpy").compared == 0


def test_classify_gives_probabilities_in_order(dataset: Dataset) -> None:
    y = logits_of(tiny(), dataset)[0]
    guesses = classify(tiny(), dataset.images[0], "numpy", top=10)
    assert [name for name, _ in guesses] == [CLASSES[i] for i in np.argsort(-y)]
    assert sum(p for _, p in guesses) == pytest.approx(1)
    p = np.exp(y) / np.exp(y).sum()
    assert guesses[0][1] == pytest.approx(p.max(), rel=1e-5)
    assert len(classify(tiny(), dataset.images[0], "numpy", top=3)) == 3
    with pytest.raises(UsageError, match="top is 11, wanted 1 to 10 classes"):
        classify(tiny(), dataset.images[0], "numpy", top=11)
