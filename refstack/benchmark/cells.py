"""A cell: one line of the table before it is measured, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from refstack.benchmark.rows import SCHEMA_VERSION


@dataclass(frozen=True)
class Cell:
    """What is measured: a network under a technique, by a backend with so many threads, `batch` images at a time."""

    model: str
    technique: str
    backend: str
    threads: int
    batch: int = 1

    def id(self, artifact_sha256: str, env_key: str, quick: bool, tuned: Mapping[str, str] | None = None) -> str:
        """Hash of the whole request: two rows with one id answer the same question on the same machine.

        Args        tuned   kernels that the plan is told to prefer
        """
        request = [SCHEMA_VERSION, asdict(self), artifact_sha256, env_key, quick, dict(tuned or {})]
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.model} {self.technique} {self.backend} {self.threads}t"


def sweep(
    models: Sequence[str], techniques: Sequence[str], backends: Sequence[str], threads: Sequence[int], batch: int
) -> list[Cell]:
    """Every combination, model by model. `numpy` is the reference and is timed once, with one thread."""
    cells = []
    for model, technique, backend in product(models, techniques, backends):
        counts = threads[:1] if backend == "numpy" else threads
        cells += [Cell(model, technique, backend, 1 if backend == "numpy" else n, batch) for n in counts]
    return list(dict.fromkeys(cells))
