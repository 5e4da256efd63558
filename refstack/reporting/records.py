"""What a report is made of: rows of bench, profiles of its layers, break-evens of CSR against dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refstack.benchmark.report import Report
from refstack.benchmark.rows import Row
from refstack.results import load


@dataclass(frozen=True)
class Records:
    """Everything that the files hold."""

    rows: list[Row] = field(default_factory=list)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    break_evens: list[dict[str, Any]] = field(default_factory=list)


def read(paths: Sequence[str | Path], report: Report | None = None) -> Records:
    """Rows of all files."""
    return Records(load(paths, report))
