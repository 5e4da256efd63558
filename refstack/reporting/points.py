"""Rows as a page shows them: machines by letter, figures with their intervals, the table's own words.

    time        median of samples_ns, blocks of a round drawn anew (results.intervals)      95 %
    top-1       Wilson's interval of `correct` in `n`                                       95 %
                (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
Source      Wilson: Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from refstack.benchmark import tables
from refstack.benchmark.rows import Row
from refstack.results import accelerator, latency

Z = 1.959964
Point = dict[str, Any]
"""What a chart, a filter and a line of the table need of a row. What failed has no costs, so that it is not drawn."""


@dataclass(frozen=True)
class Machine:
    """Rows whose times may be compared: one machine or its accelerator, one build of refstack, quick runs apart.

    name    a letter        rows    with their ratios, in order
    """

    name: str
    rows: list[Row]

    @property
    def env(self) -> dict[str, Any]:
        """Of the latest row."""
        found: dict[str, Any] = self.rows[-1]["env"]
        return found


def machines(rows: Sequence[Row]) -> list[Machine]:
    """Rows apart by machine and build (`env.key`) and accelerator, in order of appearance."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault((row["env"].get("key"), accelerator(row), row["quick"]), []).append(row)
    return [Machine(_letter(i), tables.with_ratios(each)) for i, each in enumerate(found.values())]


def columns(found: Sequence[Machine]) -> list[str]:
    """The table's, behind machine and batch where they differ."""
    rows = [row for machine in found for row in machine.rows]
    extra = ["machine"] * (len(found) > 1) + ["batch"] * (len({row["batch"] for row in rows}) > 1)
    return extra + tables.columns(rows)


def points(found: Sequence[Machine]) -> list[Point]:
    """Every row of every machine; `panel` numbers what a front may span: one network, machine and batch."""
    names, ids = columns(found), dict[Any, int]()
    made = [_point(machine.name, row, names) for machine in found for row in machine.rows]
    return [{**each, "panel": ids.setdefault(_span(each), len(ids))} for each in made]


def panels(shown: Sequence[Point]) -> list[dict[str, Any]]:
    """Number, network and title of every panel; machine and batch are named where they differ."""
    firsts = {point["panel"]: point for point in reversed(shown)}
    many = {field: len({point[field] for point in shown}) > 1 for field in ("machine", "batch")}
    found = []
    for id, point in sorted(firsts.items()):
        words = [point["model"], *(f"{field} {point[field]}" for field in many if many[field])]
        found.append({"id": id, "model": point["model"], "title": ", ".join(words)})
    return found


def _span(point: Point) -> tuple[Any, ...]:
    return point["model"], point["machine"], point["batch"]


def _point(machine: str, row: Row, names: Sequence[str]) -> Point:
    ok = row["status"] == "ok"
    time = latency(row) if ok else None
    low, high = wilson(row.get("top1"), row.get("top1_n"))
    shown = {"machine": machine, "batch": str(row["batch"])}
    return {
        "machine": machine,
        "model": tables.COLUMNS["model"](row),
        "technique": row["technique"],
        "format": tables.COLUMNS["format"](row),
        "backend": row["backend"],
        "weights": tables.COLUMNS["weights"](row),
        "threads": row["threads"],
        "batch": row["batch"],
        "status": row["status"],
        "ms": _positive(row["latency_p50_ms"]) if ok else None,
        "ms_low": time.low if time else None,
        "ms_high": time.high if time else None,
        "top1": row.get("top1"),
        "top1_low": low,
        "top1_high": high,
        "planned": _positive(row.get("planned_bytes"), 1e-6) if ok else None,
        "peak": _positive(row.get("peak_rss_bytes"), 1e-6) if ok else None,
        "stored": _positive(row.get("stored_bytes"), 1e-6) if ok else None,
        "cells": [shown[name] if name in shown else tables.COLUMNS[name](row) for name in names],
    }


def wilson(percent: float | None, n: int | None) -> tuple[float | None, float | None]:
    """The 95 % interval of a share in percent, in percent; none without both numbers."""
    if percent is None or not n or n < 0 or not 0 <= percent <= 100:
        return None, None
    p = percent / 100
    mid, off = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n * n))
    return 100 * (mid - off) / (1 + Z**2 / n), 100 * (mid + off) / (1 + Z**2 / n)


def _positive(value: Any, scale: float = 1.0) -> float | None:
    """For an axis of logarithms."""
    return value * scale if isinstance(value, int | float) and value > 0 else None


def _letter(i: int) -> str:
    """A .. Z, then A1 .."""
    turn, letter = divmod(i, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn) if turn else "")
