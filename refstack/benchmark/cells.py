"""A cell: one line of the table before it is measured, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
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
    models: Sequence[str],
    techniques: Sequence[str],
    backends: Sequence[str],
    threads: Sequence[int],
    batch: int,
    single: Collection[str] = ("numpy",),
) -> list[Cell]:
    """Every combination, model by model.

    Args        single      backends to which threads of this machine mean nothing: `numpy` is the reference and is
                            timed once, so is a GPU
    """
    cells = []
    for model, technique, backend in product(models, techniques, backends):
        for count in (1,) if backend in single else threads:
            cells.append(Cell(model, technique, backend, count, batch))
    return list(dict.fromkeys(cells))
