"""Which point to ship: the fastest that is accurate enough, quick enough and small enough, on each machine.

A point is a network under a technique; backend and threads are taken as they serve it best. The runner-up is another
point, and the margin is how many times longer it takes, with its interval: where that holds 1 the two are even.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from refstack.benchmark.rows import Row
from refstack.errors import UsageError
from refstack.results.cells import accelerator, latest, machine, title
from refstack.results.intervals import Interval, ratio


@dataclass(frozen=True)
class Choice:
    """One machine's answer.

    best, runner_up     rows; None if no other point, or none at all, keeps the limits
    margin              time of the runner-up over time of the best; None if their noise is not known
    nearest             if no point keeps the limits: what is missing, in words
    doubts              what a reader should know before shipping
    """

    machine: str
    best: Row | None
    runner_up: Row | None
    margin: Interval | None
    nearest: str
    doubts: tuple[str, ...]


def best(
    rows: Sequence[Row], accuracy: float, latency_ms: float = math.inf, memory_bytes: float = math.inf
) -> list[Choice]:
    """The point to ship under these limits.

    Args        accuracy        percent of images right, at least
                latency_ms      median time of a run, at most
                memory_bytes    `planned_bytes`, what running takes, at most; rows without it are not small enough
    Returns     an answer for each machine, in order of appearance
    Raises      UsageError      a limit makes no sense, or no row has both time and accuracy
    """
    if not 0 <= accuracy <= 100:
        raise UsageError(f"--accuracy: got {accuracy:g}, wanted percent, from 0 to 100")
    for name, limit in (("--latency", latency_ms), ("--memory", memory_bytes)):
        if not limit > 0:
            raise UsageError(f"{name}: got {limit:g}, wanted more than 0")
    known = [row for row in latest(rows) if row["status"] == "ok" and row.get("top1") is not None]
    known = [row for row in known if not row["quick"]] or known
    if not known:
        raise UsageError("best: no row has both a time and an accuracy; `refstack bench --data DIR` measures both")
    limits = (accuracy, latency_ms, memory_bytes)
    machines = dict.fromkeys(_where(row) for row in known)
    return [_choice(name, [row for row in known if _where(row) == (name, key)], limits) for name, key in machines]


def _where(row: Row) -> tuple[str, str]:
    names = str(row["env"].get("cpu")), accelerator(row)
    return ", ".join(filter(None, names)), machine(row)


def _choice(name: str, rows: list[Row], limits: tuple[float, float, float]) -> Choice:
    fit = sorted((row for row in rows if not _broken(row, limits)), key=lambda row: row["latency_p50_ms"])
    if not fit:
        return Choice(name, None, None, None, _nearest(rows, limits), ())
    first = fit[0]
    second = next((row for row in fit if _point(row) != _point(first)), None)
    return Choice(name, first, second, ratio(second, first) if second else None, "", tuple(_doubts(first, limits[0])))


def _point(row: Row) -> tuple[object, ...]:
    return row["model"], row["technique"], row.get("level"), row["batch"]


def _broken(row: Row, limits: tuple[float, float, float]) -> list[str]:
    """Limits that a row does not keep, by name."""
    accuracy, latency_ms, memory_bytes = limits
    planned = row.get("planned_bytes")
    small = math.isinf(memory_bytes) or (planned is not None and planned <= memory_bytes)
    kept = {"accuracy": row["top1"] >= accuracy, "latency": row["latency_p50_ms"] <= latency_ms, "memory": small}
    return [name for name, holds in kept.items() if not holds]


def _nearest(rows: list[Row], limits: tuple[float, float, float]) -> str:
    """The rows that come closest: each breaks one limit only, or the most accurate of all."""
    words = []
    for name, field, unit in (
        ("accuracy", "top1", "%"),
        ("latency", "latency_p50_ms", "ms"),
        ("memory", "planned_bytes", "B"),
    ):
        close = [row for row in rows if _broken(row, limits) == [name] and row.get(field) is not None]
        if close:
            row = (max if name == "accuracy" else min)(close, key=lambda each: each[field])
            words.append(f"but for {name}: {title(row)} with {row[field]:.4g} {unit}")
    most = max(rows, key=lambda row: row["top1"])
    return "; ".join(words or [f"the most accurate is {title(most)} with {most['top1']:.2f} %"])


def _doubts(row: Row, accuracy: float) -> list[str]:
    """What speaks against believing a row's figures as they stand."""
    found = []
    if row.get("top1_n"):
        share = row["top1"] / 100
        error = 100 * math.sqrt(share * (1 - share) / row["top1_n"])
        if row["top1"] - 2 * error < accuracy:
            found.append(
                f"accuracy {row['top1']:.2f} +- {2 * error:.2f} % of {row['top1_n']} images may be below the limit"
            )
    if row.get("weights") == "drawn":
        found.append("its weights are drawn: time and bytes are right, the trained ones are not shipped")
    if row["quick"]:
        found.append("a quick run: few samples")
    return found
