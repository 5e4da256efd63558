"""Where a row's top-1 comes from: measured on a data set at hand, else recorded for the checkpoint, else null."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refstack.benchmark.artifacts import Artifact
from refstack.benchmark.worker import ChildFailed, Worker
from refstack.datasets import Dataset
from refstack.graph import Graph
from refstack.models import zoo

QUICK_IMAGES = 500
TIMEOUT_S = 3600.0
UNMEASURED = "not measured: no data set given"


@dataclass(frozen=True)
class Top1:
    """correct / n, and what stands behind it: "measured:<data set>", "recorded:<data set>", or None and a reason."""

    correct: int | None = None
    n: int | None = None
    source: str | None = None
    reason: str | None = None

    def fields(self) -> dict[str, Any]:
        """As they stand in a row; top1 in percent."""
        top1 = None if self.correct is None or not self.n else 100 * self.correct / self.n
        return {"top1": top1, "top1_n": self.n, "top1_source": self.source, "top1_reason": self.reason}


def recorded(trained: Graph, artifact: Artifact) -> Top1:
    """What the manifest says of these very bytes; for drawn weights, of the trained point that they stand for."""
    if artifact.point is not None:
        found = artifact.point.accuracy
    elif artifact.technique == "dense":
        found = trained.meta.get("accuracy") or {}
    else:
        found = zoo.one_shot().get(artifact.sha256, {}).get("accuracy", {})
    if found:
        name, largest = max(found.items(), key=lambda each: each[1]["n"])
        return Top1(largest["correct"], largest["n"], f"recorded:{name}")
    drawn = artifact.facts["weights"] == "drawn"
    return Top1(reason="weights are drawn, not trained" if drawn else UNMEASURED)


def measured(artifact: Artifact, dataset_file: Path, dataset: Dataset, backends: list[str], threads: int) -> Top1:
    """Run the data set through the artifact in a child process."""
    with Worker(threads) as worker:
        try:
            found = worker.ask(
                "accuracy", TIMEOUT_S, graph=str(artifact.graph_file), data=str(dataset_file), backends=backends,
                threads=threads,
            )  # fmt: skip
        except ChildFailed as error:
            return Top1(reason=f"not measured: {error.reason}")
    return Top1(found["correct"], found["n"], f"measured:{dataset.name}")


def save(dataset: Dataset, path: Path) -> None:
    """Images and labels in one .npy, so that they are decoded once and not by every child."""
    record = np.empty(len(dataset), [("image", np.uint8, dataset.images.shape[1:]), ("label", np.int64)])
    record["image"], record["label"] = dataset.images, dataset.labels
    np.save(path, record, allow_pickle=False)
