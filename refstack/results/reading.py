"""Read result files: journals of bench, and what its --format json and jsonl print.

    file -> lines or one array -> rows, each checked, each brought to this schema; fields that are not known stay

A file is hostile until it is checked: its size is bounded, its JSON is strict (no NaN, no name twice), its
fields are what the schema says (benchmark/row.schema.json).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refstack.benchmark.journal import CRC, START, intact
from refstack.benchmark.report import Report
from refstack.benchmark.rows import SCHEMA_VERSION, Row, violations
from refstack.errors import FormatError, UsageError

MOST_BYTES = 1 << 29
"""Of one file; a full run of 90 cells takes 1 MB."""


def load(paths: Sequence[str | Path] | str | Path, report: Report | None = None) -> list[Row]:
    """Rows of these files, in order, as this schema has them.

    Args        report      is told of lines that are damaged, which are left out
    Returns     rows of bench; those of older schemas carry `upgraded_from`
    Raises      UsageError      a file is not there, is no file, or holds no row
                FormatError     a file is not what bench writes, or a newer refstack's
    """
    report = report or Report()
    rows: list[Row] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        found, damaged = _rows(Path(path))
        if damaged:
            report.note(f"{path}: {damaged} damaged line{'s' * (damaged > 1)} left out")
        if not found:
            raise UsageError(f"{path}: holds no whole row; `refstack bench --output {path}` writes some")
        rows += found
    if not rows:
        raise UsageError("no result file named, wanted at least one, for example results/bench.jsonl")
    return rows


def _rows(path: Path) -> tuple[list[Row], int]:
    """(rows, number of damaged lines) of one file."""
    content = _content(path)
    if content.lstrip()[:1] == b"[":
        values = _parsed(content, str(path))
        return [_row(value, f"{path}: row {i}") for i, value in enumerate(values, 1)], 0
    rows, damaged = [], 0
    for i, line in enumerate(content.splitlines(), 1):
        value = _line(line, f"{path}: line {i}")
        if value is not None:
            rows.append(_row(value, f"{path}: line {i}"))
        damaged += bool(line.strip()) and value is None
    return rows, damaged


def _content(path: Path) -> bytes:
    if not path.exists():
        raise UsageError(f"{path}: no such file, wanted what `refstack bench` wrote, for example results/bench.jsonl")
    if not path.is_file():
        raise UsageError(f"{path}: is not a file, wanted what `refstack bench` wrote")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise FormatError(f"{path}: {size} bytes, results are at most {MOST_BYTES}; name a journal of refstack bench")
    return path.read_bytes()


def _line(line: bytes, where: str) -> Any:
    """What a line holds; None if it is damaged: its checksum is wrong, or it is the torn beginning of a row."""
    if CRC in line:
        text = intact(line)
        return None if text is None else _parsed(text, where)
    if not line.strip():
        return None
    if not line.startswith(b"{"):
        raise FormatError(f"{where}: not a row of refstack bench; name a journal, or what --format json printed")
    try:
        return _parsed(line, where)
    except FormatError:
        if line.startswith(START):
            return None
        raise


def _parsed(text: bytes, where: str) -> Any:
    """Strict JSON."""
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise FormatError(f"{where}: not strict JSON ({reason})") from None


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON, bench writes null")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is more than a number can be")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _row(value: Any, where: str) -> Row:
    """A checked row of this schema."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: got {type(value).__name__}, wanted an object with a row's fields")
    version = value.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FormatError(f"{where}: schema_version is {version!r}, wanted a whole number: no row of refstack bench")
    if version > SCHEMA_VERSION:
        raise FormatError(f"{where}: schema {version}, this refstack reads up to {SCHEMA_VERSION}; update refstack")
    row = upgraded(value)
    for problem in violations(row):
        raise FormatError(f"{where}: {problem}: no row of refstack bench")
    return row


def upgraded(row: Row) -> Row:
    """A row of an older schema as this one has it.

    1 to 2      weights that were compressed at once are called "one-shot"; `point` is none, files were float32
    2 to 3      memory was counted from other moments: what it was then is kept under the schema's name, and is null
    """
    version = row["schema_version"]
    if version == SCHEMA_VERSION:
        return row
    row = {**row, "schema_version": SCHEMA_VERSION, "upgraded_from": version}
    if version < 2:
        at_once = row.get("weights") == "trained" and row.get("technique") != "dense"
        row |= {"weights": "one-shot"} if at_once else {}
        row = {"point": None, "stored_as": "float32", **row}
    for name in ("baseline_rss_bytes", "peak_rss_bytes"):
        row |= {f"{name}_before_schema_3": row.get(name), name: None}
    return {"running_rss_bytes": None, **row}
