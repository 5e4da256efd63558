"""The verb that shows what was measured: report."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from refstack.cli.options import say


class ReportView(str, Enum):
    """The formats of report."""

    html = "html"
    md = "md"
    csv = "csv"
    png = "png"
    svg = "svg"


def report(
    results: Annotated[list[Path], typer.Argument(help="Journals of bench; profiles and break-evens beside them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: report.html; md and csv go to stdout.")
    ] = None,
    view: Annotated[
        ReportView | None, typer.Option("--format", "-f", help="Default: as the suffix of --output says, else html.")
    ] = None,
) -> None:
    """Write what was measured as one page that needs no network: fronts, layers, break-even, the whole table."""
    from refstack.cli.progress import Shown
    from refstack.reporting.records import read
    from refstack.reporting.writer import render
    from refstack.reporting.writer import report as run

    with Shown() as progress:
        if output is None and view in (ReportView.md, ReportView.csv):
            sys.stdout.write(render(read(results, progress), view.value).decode())
            return
        target = output or Path(f"report.{(view or ReportView.html).value}")
        written = run(results, target, view.value if view else None, progress)
    say(f"{written}: {written.stat().st_size / 1e6:.2f} MB")
