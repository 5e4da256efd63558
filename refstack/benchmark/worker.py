"""The process that runs one cell of the bench, child.py, as its parent sees it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from refstack import worker
from refstack.worker import ChildFailed, environment

__all__ = ["ChildFailed", "Worker", "environment"]

COMMAND = (sys.executable, "-m", "refstack.benchmark.child")


class Worker(worker.Worker):
    """child.py in a process of its own, or another program that answers the same commands."""

    def __init__(self, threads: int, command: Sequence[str] | None = None) -> None:
        super().__init__(command or COMMAND, threads)
