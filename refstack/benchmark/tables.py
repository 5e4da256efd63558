"""Views of rows: a table to read, JSON, JSON lines, CSV, Markdown. Rows are facts; ratios are made here."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from refstack.benchmark import machine
from refstack.benchmark.rows import SAMPLES, Row, strict

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = ("table", "json", "jsonl", "csv", "md")
COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: Path(row["model"]).name if row["model"].endswith(".safetensors") else row["model"],
    "technique": lambda row: row["technique"],
    "format": lambda row: row.get("format") or "-",
    "weights": lambda row: row.get("weights") or "-",
    "backend": lambda row: row["backend"],
    "thr": lambda row: str(row["threads"]),
    "ms p50 (p90)": lambda row: _latency(row),
    "x dense": lambda row: _number(row["speedup"], "{:.2f}"),
    "x peer": lambda row: _number(row["vs_fastest_peer"], "{:.2f}"),
    "top-1 %": lambda row: _top1(row),
    "stored MB": lambda row: _mega(row, "stored_bytes"),
    "plan MB": lambda row: _mega(row, "planned_bytes"),
    "RSS MB": lambda row: _mega(row, "peak_rss_bytes"),
    "MACs M": lambda row: _number(row.get("macs"), "{:.0f}", 1e-6),
    "err/bound": lambda row: _number(row.get("max_error_vs_bound"), "{:.3f}"),
    "status": lambda row: row["status"],
}
REPEATED = ("model", "technique", "format", "weights")
TEXT = ("model", "technique", "format", "weights", "backend", "status")
SPARE = (
    "err/bound",
    "MACs M",
    "plan MB",
    "format",
    "RSS MB",
    "weights",
    "stored MB",
)  # first to go in a narrow terminal
STYLES = {"ok": None, "skipped": "dim"}
NESTED = (*SAMPLES, "kernels", "env")


WEIGHTS = {
    "one-shot": "compressed in one shot, not trained again",
    "drawn": "weights drawn at random: times and sizes hold, top-1 (if any) is that of the trained network",
}


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows with what their p50 is measured against, over it: above 1 this row is faster.

    speedup             the dense row of the same network, backend, threads and batch
    vs_fastest_peer     the fastest other runtime (--peers) on the same network, technique, threads and batch
    Rows of another machine or build are not measured against each other.
    """
    dense = _fastest([row for row in rows if row["technique"] == "dense"], "backend")
    peers = _fastest([row for row in rows if row.get("peer")], "technique")
    found = []
    for row in rows:
        ratios = {"speedup": _over(dense, row, "backend"), "vs_fastest_peer": _over(peers, row, "technique")}
        found.append({**row, **ratios})
    return found


def _fastest(rows: Sequence[Row], *keys: str) -> dict[Any, float]:
    """The lowest p50 of the rows that have one, by what they measure."""
    found: dict[Any, float] = {}
    for row in rows:
        if row["latency_p50_ms"]:
            found[_same(row, *keys)] = min(row["latency_p50_ms"], found.get(_same(row, *keys), math.inf))
    return found


def _over(base: dict[Any, float], row: Row, *keys: str) -> float | None:
    own, other = row["latency_p50_ms"], base.get(_same(row, *keys))
    return other / own if own and other else None


def _same(row: Row, *keys: str) -> Any:
    return row["env"].get("key"), *(row[key] for key in ("model", "threads", "batch", "quick", *keys))


def columns(rows: Sequence[Row]) -> list[str]:
    """Those that these rows have something for."""
    return [name for name in COLUMNS if name != "x peer" or any(row.get("peer") for row in rows)]


def write(rows: Sequence[Row], format: str, stream: IO[str]) -> None:
    """Print rows in one of FORMATS, and nothing else."""
    if format == "json":
        stream.write(json.dumps(strict(list(rows)), allow_nan=False, indent=1) + "\n")
    elif format == "jsonl":
        stream.writelines(json.dumps(strict(row), allow_nan=False) + "\n" for row in rows)
    elif format == "csv":
        stream.write(as_csv(rows))
    elif format == "md":
        stream.write(as_markdown(rows))
    else:
        print_table(rows, stream)


def as_csv(rows: Sequence[Row]) -> str:
    """One column a field, nested ones left out; null is an empty cell."""
    rows = with_ratios(rows)
    names = list(dict.fromkeys(name for row in rows for name in row if name not in NESTED))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """The table's columns, and the machine below."""
    names = columns(rows)
    lines = ["| " + " | ".join(names) + " |"]
    lines.append("|" + "|".join("---" if name in TEXT else "--:" for name in names) + "|")
    lines += ["| " + " | ".join(COLUMNS[name](row) for name in names) + " |" for row in with_ratios(rows)]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes(rows))]) + "\n"


def print_table(rows: Sequence[Row], stream: IO[str]) -> None:
    """For reading: grouped by network, with what went wrong and the machine below."""
    from rich.console import Console

    width = None if stream.isatty() else 140
    console = Console(file=stream, width=width, highlight=False)
    names = columns(rows)
    spare = iter(SPARE)
    free = console.options.update(max_width=1000)  # or the width would be cut to the console's before it is compared
    while console.measure(table(rows, names), options=free).maximum > console.width and (name := next(spare, None)):
        names.remove(name)
    console.print(table(rows, names))
    for note in notes(rows):
        console.print(note, style="dim", markup=False, soft_wrap=not stream.isatty())


def table(rows: Sequence[Row], names: Sequence[str] = tuple(COLUMNS)) -> Table:
    """The rich table: networks apart by a rule, repeated names left blank."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in names:
        made.add_column(name, justify="left" if name in TEXT else "right", no_wrap=True)
    last: list[str] = []
    rows = with_ratios(rows)
    for i, row in enumerate(rows):
        cells = [COLUMNS[name](row) for name in names]
        shown = list(cells)
        for column, name in enumerate(names):
            if name in REPEATED and last[: column + 1] == cells[: column + 1]:
                shown[column] = ""
        last = cells
        ends = i + 1 < len(rows) and rows[i + 1]["model"] != row["model"]
        made.add_row(*map(escape, shown), end_section=ends, style=STYLES.get(row["status"], "red"))
    return made


def notes(rows: Sequence[Row]) -> list[str]:
    """What stands below a table: failures with reasons, what top-1 is of, the machine."""
    found = failures(rows)
    found += _peers(rows)
    sources = dict.fromkeys(row["top1_source"] for row in rows if row["top1_source"])
    reasons = dict.fromkeys(row["top1_reason"] for row in rows if row["top1_reason"])
    words = [f"{source.replace(':', ' on ', 1)}" for source in sources] + [f"- {reason}" for reason in reasons]
    found += [f"top-1: {'; '.join(words)}"] if words else []
    for weights, meaning in WEIGHTS.items():
        whose = dict.fromkeys(f"{row['model']} {row['technique']}" for row in rows if row.get("weights") == weights)
        found += [f"{meaning}: {', '.join(whose)}"] if whose else []
    tuned = dict.fromkeys(f"{row['tuned']} of {_who(row)}" for row in rows if row.get("tuned"))
    found += [f"layers with kernels chosen by refstack tune: {', '.join(tuned)}"] if tuned else []
    if any(row["quick"] for row in rows):
        found.append("quick run: few samples, not for comparison")
    latest = rows[-1]
    return [*found, machine.line(latest["env"], latest["env"].get("roofs"), latest["created_utc"])]


def failures(rows: Sequence[Row]) -> list[str]:
    """The rows without times, by reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            found.setdefault((row["status"], row["status_reason"]), []).append(_who(row))
    return [f"{', '.join(who)}: {status}: {reason}" for (status, reason), who in found.items()]


def _peers(rows: Sequence[Row]) -> list[str]:
    """The other runtimes with their versions, and the settings that were fastest where there is a choice."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.get("peer"):
            settings = found.setdefault(row["peer"], {})
            if row.get("peer_setting"):
                whose = f"{row['model']} {row['technique']} {row['threads']}t"
                settings.setdefault(row["peer_setting"], []).append(whose)
    words = {peer: [f"{name}: {', '.join(whose)}" for name, whose in each.items()] for peer, each in found.items()}
    return [": ".join(filter(None, (peer, "; ".join(settings)))) for peer, settings in words.items()]


def _who(row: Row) -> str:
    return f"{row['model']} {row['technique']} {row['backend']} {row['threads']}t"


def _latency(row: Row) -> str:
    if row["latency_p50_ms"] is None:
        return "-"
    return f"{_digits(row['latency_p50_ms'])} ({_digits(row['latency_p90_ms'])})"


def _digits(value: float | None) -> str:
    """Three significant digits, no exponent."""
    return "-" if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _top1(row: Row) -> str:
    if row["top1"] is None:
        return "-"
    return f"{row['top1']:.2f}" + ("" if str(row["top1_source"]).startswith("measured") else " r")


def _mega(row: Row, field: str) -> str:
    return _number(row.get(field), "{:.2f}" if (row.get(field) or 0) < 1e7 else "{:.1f}", 1e-6)


def _number(value: Any, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)
