"""What the tests of bench share: a network of a few microseconds, a listener, strict JSON, sabotaged children."""

from __future__ import annotations

import json
import sys
from typing import Any

from refstack.benchmark import Report, worker
from refstack.benchmark.cells import Cell
from refstack.benchmark.rounds import Policy
from refstack.graph import Graph
from refstack.models.builder import Builder
from refstack.models.zoo import draw

FAST = Policy(rounds=3, block_ms=1, cell_s=0.2, min_rounds=3, load_timeout_s=60, time_timeout_s=20)
CELL = Cell("tiny", "dense", "numpy", 1)


def tiny(seed: int = 0) -> Graph:
    net = Builder("tiny", (3, 8, 8)).conv("conv1", 8, 3, padding=1).batchnorm().relu()
    return draw(net.globalavgpool().flatten().linear("fc", 10).graph(), seed)


class Notes(Report):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0.0
        self.total = 0

    def note(self, text: str) -> None:
        self.said.append(text)

    def begin(self, units: int) -> None:
        self.total = units

    def advance(self, units: float, doing: str) -> None:
        self.done += units


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def strict_loads(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


PLANT = """
import os, signal, sys, time
from dataclasses import replace
from refstack.backends import numpy as home
rows, calls = home.kernels(), 0
def fault(step):
    global calls
    calls += 1
    honest(step)
    {fault}
honest = next(row.run for row in rows if row.op == "linear")
home.kernels = lambda: tuple(replace(row, run=fault) if row.op == "linear" else row for row in rows)
from refstack.{child} import main
main()
"""
TRUSTED = worker.COMMAND


def planted(fault: str, child: str = "benchmark.child") -> tuple[str, ...]:
    """Command of a child whose linear kernel does this on top of the right thing."""
    return sys.executable, "-c", PLANT.format(fault=fault, child=child)
