"""A page of what was measured: fronts, rooflines, break-even and the whole table, in one file that needs no network.

    files -> records (rows) -> points (figures, intervals) -> charts (Vega-Lite) -> page (HTML), or picture, or tables

Names are imported when they are first used: Altair and its JavaScript are optional, and slow to import.
Next: records.py, points.py, charts.py, page.py
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refstack.reporting.writer import report

__all__ = ["report"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'refstack.reporting' has no attribute {name!r}")
    return getattr(importlib.import_module("refstack.reporting.writer"), name)
