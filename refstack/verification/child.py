"""The process in which kernels are examined: python -m refstack.verification.child [PLUGIN ..]

start       a kernel's backend is compiled and loaded
examine     {"problem": word, "seed", "threads", "hard"} -> a Finding, and `tampered`: arithmetic is not what it was
taps        {"problem": word, "seed"} -> which products a wrong value hangs on
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from refstack.backends import NAMES, backend, load, plugin
from refstack.errors import UsageError
from refstack.kernels import Kernel
from refstack.verification.cases import parse_problem
from refstack.verification.examiner import in_process
from refstack.verification.harness import float_mode
from refstack.verification.saboteurs import honest_row, saboteurs
from refstack.verification.taps import taps
from refstack.worker import serve


class Session:
    """Rows by name: the plug-ins given, those of the registry, and the controls."""

    def __init__(self, plugins: list[str]) -> None:
        controls = [honest_row(), *(each.row for each in saboteurs())]
        self.rows = {row.name: row for row in (*controls, *(plugin.kernel(path) for path in plugins))}

    def row(self, name: str) -> Kernel:
        """The row of this name."""
        if name not in self.rows:
            for each in NAMES:
                if f".{each}." in name and not backend(each).unavailable():
                    self.rows |= {row.name: row for row in backend(each).kernels()}
        if name not in self.rows:
            raise UsageError(f"no kernel is called {name!r}")
        return self.rows[name]

    def start(self, kernel: str) -> dict[str, Any]:
        """Get ready."""
        load(self.row(kernel).backend)
        return {}

    def examine(self, kernel: str, problem: str, seed: int, threads: list[int], hard: bool) -> dict[str, Any]:
        """One problem."""
        found = in_process(self.row(kernel), parse_problem(problem, seed), threads, hard)
        return asdict(found) | {"tampered": bool(float_mode())}

    def taps(self, kernel: str, problem: str, seed: int) -> dict[str, Any]:
        """Why it is wrong."""
        return {"taps": taps(self.row(kernel), parse_problem(problem, seed))}


def main() -> None:
    """Serve until the parent closes the pipe or dies."""
    serve(Session(sys.argv[1:]), ("start", "examine", "taps"))


if __name__ == "__main__":
    main()
