"""A report as a file: a page, a picture, or the tables of bench with each machine apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refstack.benchmark import tables
from refstack.benchmark.report import Report
from refstack.benchmark.rows import Row
from refstack.container import write_bytes
from refstack.errors import BackendUnavailable, UsageError
from refstack.reporting.points import Machine, machines, points
from refstack.reporting.records import Records, read

FORMATS = ("html", "md", "csv", "png", "svg")
SURE = {
    "latency_p50_low_ms": "ms_low", "latency_p50_high_ms": "ms_high", "top1_low": "top1_low", "top1_high": "top1_high",
}  # fmt: skip
SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".csv": "csv", ".png": "png", ".svg": "svg"}


def report(
    results: Sequence[str | Path] | str | Path,
    output: str | Path = "report.html",
    format: str | None = None,
    progress: Report | None = None,
) -> Path:
    """Write what was measured as one file that needs no network.

    Args        results     journals of bench, what `bench --format json`, `bench --profile --format json` and
                            `tools/break_even.py --json` print
                output      replaced if it is there
                format      html, md, csv, png or svg; default: as the suffix of `output` says
                progress    is told of lines that are damaged
    Returns     output
    Raises      UsageError      output's suffix is not the format's, or a result is missing
                FormatError     a result is not what refstack writes
                BackendUnavailable  the extra `report` is not installed
    """
    target = Path(output)
    wanted = format or SUFFIXES.get(target.suffix.lower())
    if wanted is None or SUFFIXES.get(target.suffix.lower()) != wanted:
        ends = ", ".join(f".{name}" for name in ([wanted] if wanted in FORMATS else FORMATS))
        raise UsageError(f"output {target}: wanted a name that ends in {ends}, so that no other file is replaced")
    paths = [results] if isinstance(results, str | Path) else list(results)
    content = render(read(paths, progress), wanted)
    write_bytes(target, content)
    return target


def render(records: Records, format: str) -> bytes:
    """The content of the file in one of FORMATS."""
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: wanted one of {', '.join(FORMATS)}")
    found = machines(records.rows)
    if format == "md":
        return "\n".join(_titled(machine, len(found) > 1) for machine in found).encode()
    if format == "csv":
        return tables.as_csv([row for machine in found for row in _sure(machine)]).encode()
    try:
        from refstack.reporting import page, picture
    except ModuleNotFoundError as error:
        extra = f'format {format} needs {error.name}: pip install "refstack-engine[report]", or take md or csv'
        raise BackendUnavailable(extra) from None
    return page.page(records).encode() if format == "html" else picture.picture(records, format)


def _titled(machine: Machine, several: bool) -> str:
    """The table of one machine, below its letter if there are more."""
    return f"## Machine {machine.name}\n\n" * several + tables.as_markdown(machine.rows)


def _sure(machine: Machine) -> list[Row]:
    """Its rows with its letter and the ends of their 95 % intervals."""
    found = []
    for row, point in zip(machine.rows, points([machine]), strict=True):
        found.append({"machine": machine.name, **row, **{name: point[field] for name, field in SURE.items()}})
    return found
