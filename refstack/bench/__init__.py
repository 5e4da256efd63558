"""Measure: every cell in a process of its own, checked before it is timed, journalled when it is done.

    bench() -> artifacts -> children: load, check -> rounds of timing -> journal -> tables
Next: cells.py, artifacts.py, child.py, rounds.py
"""

from refstack.bench.report import Report
from refstack.bench.runner import bench

__all__ = ["Report", "bench"]
