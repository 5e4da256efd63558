"""Which rows are of the same cell, and which of the same machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from refstack.benchmark.rows import Row

CELL = ("model", "technique", "weights", "format", "level", "backend", "threads", "batch", "quick")
"""Fields that say what was measured; the build is not among them."""
MACHINE = ("host", "cpu", "cpu_features", "cores_physical", "cores_logical", "threads_allowed", "caches_bytes")
"""Fields of `env` that say where. `env.key` hashes the build as well: two builds of one machine differ in it."""


def key(row: Row) -> tuple[Any, ...]:
    """What was measured: rows with one key answer the same question."""
    return (*(row.get(name) for name in CELL), device(row).get("name"))


def machine(row: Row) -> str:
    """Where it was measured, as text that is the same for the same machine."""
    return json.dumps([row["env"].get(name) for name in MACHINE], sort_keys=True)


def names(rows: Sequence[Row]) -> dict[str, str]:
    """machine -> what to call it: its processor, and where two are alike how many threads it allows and its GPU."""
    envs = {machine(row): row["env"] for row in rows}
    cpus = [str(env.get("cpu")) for env in envs.values()]
    gpus = {machine(row): name for row in rows if (name := accelerator(row))}
    found = {}
    for place, env in envs.items():
        name = str(env.get("cpu"))
        if cpus.count(name) > 1:
            name += f", {env.get('threads_allowed')} threads" + (f", {gpus[place]}" if place in gpus else "")
        found[place] = name
    return found


def device(row: Row) -> dict[str, Any]:
    """What an OpenCL row ran on (`env.device`); nothing for a row of another backend."""
    return row["env"].get("device") or {}


def accelerator(row: Row) -> str | None:
    """The name of the graphics processor that a row ran on; None if it ran on the machine's processor."""
    found = device(row)
    return str(found.get("name")) if found.get("kind") == "gpu" else None


def title(row: Row) -> str:
    """A cell in a few words."""
    words = [row["model"], row["technique"], row["backend"], f"{row['threads']}t"]
    return " ".join(words + ([f"batch {row['batch']}"] if row["batch"] > 1 else []))


def latest(rows: Sequence[Row], builds: bool = False) -> list[Row]:
    """One row for each cell and machine: the last that is ok, else the last. Order of first appearance.

    Args        builds      one for each build as well
    """
    found: dict[Any, Row] = {}
    for row in rows:
        cell = (key(row), machine(row), row["env"].get("key") if builds else None)
        if row["status"] == "ok" or found.get(cell, row)["status"] != "ok":
            found[cell] = row
    return list(found.values())
