"""The process that runs one cell of the bench, child.py, as its parent sees it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

from refstack import worker
from refstack.benchmark.machine import neighbours
from refstack.worker import ChildFailed, environment

__all__ = ["ChildFailed", "Worker", "environment"]

COMMAND = (sys.executable, "-m", "refstack.benchmark.child")


class Worker(worker.Worker):
    """child.py in a process of its own, or another program that answers the same commands."""

    def __init__(self, threads: int, command: Sequence[str] | None = None) -> None:
        super().__init__(command or COMMAND, threads)
        self.near: tuple[int, ...] = ()  # processors beside its memory, known once it has loaded

    @contextmanager
    def on(self, turn: int) -> Iterator[None]:
        """Keep its main thread on one processor meanwhile, another each turn. A dead child is left alone."""
        with suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            self.near = self.near or neighbours(process)
            process.cpu_affinity([self.near[turn % len(self.near)]])
        yield
        with suppress(psutil.Error):
            psutil.Process(self._process.pid).cpu_affinity(list(os.sched_getaffinity(0)))
