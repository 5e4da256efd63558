"""Measure: every cell in a process of its own, checked before it is timed, journalled when it is done.

    bench() -> artifacts -> children: load, check -> rounds of timing -> journal -> tables

Names are imported when they are first used: a child needs neither of them, and there are many children.
Next: cells.py, artifacts.py, child.py, rounds.py
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refstack.benchmark.report import Report
    from refstack.benchmark.runner import bench

__all__ = ["Report", "bench"]

_HOME = {"Report": "report", "bench": "runner"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'refstack.benchmark' has no attribute {name!r}")
    return getattr(importlib.import_module(f"refstack.benchmark.{_HOME[name]}"), name)
