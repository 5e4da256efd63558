"""Accuracy of a network as an engine computes it, and every image on which it departs from the recorded predictions.

Two sound float32 computations may name different classes only where the top two logits are nearly equal:

    y1, y2 within e1, e2 of the float64 logits  and  argmax y1 != argmax y2   =>   margin of y2 <= 2 * (e1 + e2)

A departure with a larger margin is an error in the engine, the file or the images, and fails the evaluation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from refstack import datasets
from refstack.datasets import CLASSES, Dataset, preprocess
from refstack.errors import UsageError
from refstack.formats import Array
from refstack.graph import Graph
from refstack.models import zoo
from refstack.planner import Plan, plan
from refstack.reference import run

MOST = 100  # departures whose error is computed; rounding cannot make more, so the others stay unexplained
HALF = 2.0**-11  # margins are recorded in float16: its rounding, relative


@dataclass(frozen=True)
class Departure:
    """An image whose class is not the recorded one.

    margin      recorded distance of the two largest logits        allowed     2 * (e1 + e2) of the formula above
    """

    index: int
    image: str
    label: int
    predicted: int
    recorded: int
    margin: float
    allowed: float

    @property
    def explained(self) -> bool:
        """Rounding alone can do this."""
        return self.margin <= self.allowed


@dataclass(frozen=True, eq=False)
class Evaluation:
    """correct of n images. `compared` is how many could be held against a recorded prediction."""

    network: str
    backend: str
    threads: int
    dataset: str
    dataset_sha256: str
    correct: int
    n: int
    compared: int
    departures: tuple[Departure, ...]
    predictions: Array = field(repr=False)

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.n

    @property
    def passed(self) -> bool:
        """Every departure from the record is within what rounding can do."""
        return all(departure.explained for departure in self.departures)


def evaluate(
    graph: Graph | str,
    data: Dataset | str | os.PathLike[str],
    backend: str | Sequence[str] = "openmp",
    threads: int = 1,
    batch: int = 32,
    limit: int | None = None,
    tuned: Mapping[str, str] | None = None,
) -> Evaluation:
    """Run a data set through a network and count.

    Args        graph   a network, or a name or file for zoo.load
                data    a data set, or the path of one
                backend one, or several in order of preference
                limit   only so many images, classes taking turns (Dataset.subset)
                tuned   kernels to prefer, as plan takes them
    Raises      UsageError, DataError, and what plan raises
    Numerics    images go through in batches; the last one is filled up with zeros
    """
    trained = zoo.load(graph) if isinstance(graph, str) else graph
    whole = data if isinstance(data, Dataset) else datasets.load(data)
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise UsageError(f"evaluate: limit is {limit}, wanted at least 1 image")
    dataset = whole if limit is None else whole.subset(min(limit, len(whole)))
    size = min(batch, len(dataset))
    backends = (backend,) if isinstance(backend, str) else tuple(backend)
    made = plan(trained, size, backends, threads, tuned)
    logits = np.concatenate([_logits(made, images) for images, _ in dataset.batches(size)])
    predictions = logits.argmax(axis=1)
    compared, departures = _departures(trained, whole, dataset, logits)
    return Evaluation(
        trained.name, "+".join(backends), made.threads, dataset.name, dataset.sha256,
        int((predictions == dataset.labels).sum()), len(dataset), compared, departures, predictions,
    )  # fmt: skip


def _logits(made: Plan, x: Array) -> Array:
    if len(x) == made.batch:
        return made.run(x)
    padded = np.zeros((made.batch, *x.shape[1:]), np.float32)
    padded[: len(x)] = x
    return made.run(padded)[: len(x)]


def _departures(graph: Graph, whole: Dataset, dataset: Dataset, logits: Array) -> tuple[int, tuple[Departure, ...]]:
    """(images with a record, those whose class differs from it), for a shipped network on a set it was judged on."""
    record = _record(graph, whole)
    if record is None:
        return 0, ()
    predictions, margins, recorder_error = record
    position = {name: i for i, name in enumerate(whole.names)}
    at = np.array([position[name] for name in dataset.names])
    found = np.flatnonzero(logits.argmax(axis=1) != predictions[at])
    shipped = zoo.load(str(_shipped_as(graph)))
    departures: list[Departure] = []
    for i in found.tolist():
        margin, allowed = float(margins[at[i]]), 0.0
        if len(departures) < MOST:
            oracle = run(shipped, preprocess(dataset.images[i : i + 1]).astype(np.float64))
            allowed = 2 * (float(np.abs(logits[i] - oracle).max()) + recorder_error) + HALF * margin
        classes = int(dataset.labels[i]), int(logits[i].argmax()), int(predictions[at[i]])
        departures.append(Departure(i, dataset.names[i], *classes, margin, allowed))
    return len(dataset), tuple(departures)


def _record(graph: Graph, dataset: Dataset) -> tuple[Array, Array, float] | None:
    """Recorded classes and margins of every image, and the recorder's own error; None if there is no such record."""
    compression = graph.meta.get("compression") or {}
    name = _shipped_as(graph)
    if compression.get("technique", "dense") != "dense" or name is None:
        return None
    golden = zoo.golden(name)
    predictions, margins = (golden.get(f"{what}.{dataset.name}") for what in ("predictions", "margin"))
    if predictions is None or margins is None or len(predictions) != len(dataset):
        return None
    if "logits" not in golden:  # int8 is recorded with refstack's own kernels, whose sums are exact
        return predictions, margins, 0.0
    return predictions, margins, float(np.abs(golden["logits"] - golden["logits64"]).max())


def _shipped_as(graph: Graph) -> str | None:
    """The name under which the file that this network came from is shipped, if its content is the published one."""
    if not (zoo.data_dir() / "manifest.json").exists():
        return None
    if "point" in graph.meta:
        name = str(graph.meta["point"])
        found = next((point.sha256 for point in zoo.points() if point.name == name), None)
    else:
        name = str(graph.meta.get("model"))
        found = zoo.manifest().get(name, {}).get("sha256")
    return name if found is not None and found == graph.meta.get("sha256") else None


def classify(
    graph: Graph,
    image: Array,
    backend: str = "openmp",
    threads: int = 1,
    top: int = 5,
    tuned: Mapping[str, str] | None = None,
) -> list[tuple[str, float]]:
    """(class, probability) of the `top` most likely classes.

    Args        image   uint8 (3, 32, 32), as datasets.load_image reads it
                tuned   kernels to prefer, as plan takes them
    """
    if not 1 <= top <= len(CLASSES):
        raise UsageError(f"classify: top is {top}, wanted 1 to {len(CLASSES)} classes")
    y = plan(graph, 1, (backend,), threads, tuned).run(preprocess(image[None]))[0].astype(np.float64)
    p = np.exp(y - y.max())
    p /= p.sum()
    return [(CLASSES[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:top]]
