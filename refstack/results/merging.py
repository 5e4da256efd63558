"""Several result files as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from refstack.benchmark.journal import Journal
from refstack.benchmark.report import Report
from refstack.benchmark.rows import Row, strict
from refstack.errors import UsageError
from refstack.results.reading import load


def merge(paths: Sequence[str | Path], output: str | Path, report: Report | None = None) -> list[Row]:
    """Rows of all files in one new file: a journal, or one array if its name ends in .json. A row is kept once.

    Runs of one cell stay apart: `compare` takes them as repetitions.
    """
    output = Path(output)
    if output.exists():
        raise UsageError(f"{output}: is there already; name another --output, or remove it")
    rows = list({json.dumps(row, sort_keys=True): row for row in load(paths, report)}.values())
    if output.suffix == ".json":
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(strict(rows), allow_nan=False, indent=1) + "\n")
        return rows
    with Journal(output) as journal:
        for row in rows:
            journal.append(row)
    return rows
