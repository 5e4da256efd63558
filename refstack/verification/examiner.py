"""Examine one problem: in this process with soft guards, or in a child that guard pages may end and a deadline stops.

The problem's word is what is sent, so every problem that is examined can be repeated from the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from refstack.errors import RefstackError
from refstack.kernels import Kernel
from refstack.verification.cases import Problem
from refstack.verification.harness import THREADS, examine
from refstack.worker import ChildFailed, Worker

COMMAND = (sys.executable, "-m", "refstack.verification.child")
DEADLINE_S, START_S = 30.0, 150.0
"""How long one problem may take, and how long a child may take to be ready: kernels may have to be compiled."""


@dataclass(frozen=True)
class Finding:
    """What one problem told about a kernel; the fields are those of harness.Outcome."""

    state: Literal["PASS", "FAIL", "CRASH", "TIMEOUT"]
    reason: str = ""
    compared: int = 0
    worst: float = 0.0
    rms: float = 0.0
    telling: bool = False


def in_process(row: Kernel, problem: Problem, threads: Sequence[int] = THREADS, hard: bool = False) -> Finding:
    """Examine here and now."""
    try:
        outcome = examine(row, problem, threads, hard)
    except RefstackError as error:
        return Finding("FAIL", str(error))
    except Exception as error:  # a user's kernel may raise anything: that is a verdict, not the end of the sweep
        return Finding("CRASH", f"{type(error).__name__}: {error}")
    if not outcome.problem:
        return Finding("PASS", "", outcome.compared, outcome.worst, outcome.rms, outcome.telling)
    return Finding("FAIL", outcome.problem, outcome.compared, outcome.worst, outcome.rms)


class Examiner:
    """Examines in a child, which is replaced when it has died. Use as a context manager, or call `close`."""

    def __init__(
        self, threads: Sequence[int] = THREADS, plugins: Sequence[str | Path] = (), deadline_s: float = DEADLINE_S
    ) -> None:
        self.threads, self.deadline_s = list(threads), deadline_s
        self.command = (*COMMAND, *(str(path) for path in plugins))
        self.child: Worker | None = None

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self.child is not None:
            self.child.close()
            self.child = None

    def __call__(self, row: Kernel, problem: Problem) -> Finding:
        """The finding, whatever becomes of the child."""
        found = self._ask(row, problem, hard=True)
        if found.state != "CRASH":
            return found
        softly = self._ask(row, problem, hard=False)  # margins instead of guard pages: does it say what was done?
        told = (
            softly.reason
            if softly.state == "FAIL"
            else "it reads outside its buffers"
            if softly.state == "PASS"
            else ""
        )
        return Finding(
            "CRASH", f"{found.reason}; with margins instead of guard pages: {told}" if told else found.reason
        )

    def explain(self, row: Kernel, problem: Problem) -> str:
        """Which products a wrong value hangs on, or nothing."""
        try:
            return str(self._send("taps", row, problem, {}).get("taps", ""))
        except ChildFailed:
            self.close()
            return ""

    def _ask(self, row: Kernel, problem: Problem, hard: bool) -> Finding:
        try:
            reply = self._send("examine", row, problem, {"threads": self.threads, "hard": hard})
        except ChildFailed as error:
            self.close()
            if error.status != "timeout" and not error.died:  # no kernel's fault
                raise RefstackError(f"verify: {error.reason}") from None
            return Finding("TIMEOUT" if error.status == "timeout" else "CRASH", error.reason)
        if reply.pop("tampered"):  # this process's arithmetic is not to be trusted any more
            self.close()
        return Finding(**(reply | {name: float("inf") for name in ("worst", "rms") if reply[name] is None}))

    def _send(self, do: str, row: Kernel, problem: Problem, more: dict[str, Any]) -> dict[str, Any]:
        if self.child is None:
            self.child = Worker(self.command, max(self.threads))
            self.child.ask("start", START_S, kernel=row.name)
        return self.child.ask(do, self.deadline_s, kernel=row.name, problem=problem.word, seed=problem.seed, **more)
