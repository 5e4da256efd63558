"""What a long run shows on stderr: notes, and a bar with the time left where stderr is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from refstack.benchmark import Report


class Shown(Report):
    """A context manager around a run. The bar is drawn when work is done, never while a block is timed."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.bar = Progress(
            *columns, console=console, auto_refresh=False, transient=True, disable=not sys.stderr.isatty()
        )
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> Shown:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """One line."""
        self.bar.console.print(text, markup=False, soft_wrap=True)

    def begin(self, units: int) -> None:
        """Now the bar has an end."""
        self.bar.update(self.task, total=units, refresh=True)

    def advance(self, units: float, doing: str) -> None:
        """Move the bar."""
        self.bar.update(self.task, advance=units, description=doing, refresh=True)
