"""Verbs that answer questions from result files: best, compare, check, merge, findings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refstack.benchmark.report import Report
from refstack.cli.options import View, say, show
from refstack.errors import UsageError

if TYPE_CHECKING:
    from refstack.benchmark.rows import Row
    from refstack.results.choosing import Choice
    from refstack.results.comparing import Comparison
    from refstack.results.rules import Problem

FAILED = 1
SECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


class Page(str, Enum):
    """How answers are printed."""

    table = "table"
    json = "json"
    md = "md"


Results = Annotated[list[Path], typer.Argument(help="Journals of bench, or what its --format json printed.")]
Shape = Annotated[Page, typer.Option("--format", "-f", help="What goes to stdout.")]


class Said(Report):
    """Notes go to stderr."""

    def note(self, text: str) -> None:
        """A line of them."""
        say(text)


def best(
    results: Results,
    accuracy: Annotated[float, typer.Option("--accuracy", "-a", help="Percent of images right, at least.")],
    latency: Annotated[str | None, typer.Option("--latency", help="Of one run, at most, for example 5ms.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="To run it, at most, for example 20MB.")] = None,
    format: Shape = Page.table,
) -> None:
    """Name the point to ship under these limits, for each machine, with the runner-up and the margin."""
    from refstack.results import best as run
    from refstack.results import load

    limits = _quantity(latency, "--latency", SECONDS), _quantity(memory, "--memory", BYTES)
    found = run(load(results, Said()), accuracy, *limits)
    if format is Page.json:
        _print([_answer(each) for each in found], format)
    else:
        shown = [{"": word, **_point(row)} for each in found for word, row in _rows(each)]
        if shown:
            _print(shown, format, ("top1", "ms", "plan_mb", "stored_mb", "thr"))
    for each in found:
        say(f"{each.machine}: {_words(each)}")
        for doubt in each.doubts:
            say(f"{each.machine}: {doubt}")
    if not all(each.best for each in found):
        raise typer.Exit(FAILED)


def compare(
    base: Annotated[Path, typer.Argument(help="Results to hold against.")],
    new: Annotated[Path, typer.Argument(help="Results to judge.")],
    fail_above: Annotated[str, typer.Option("--fail-above", help="Smallest change that counts.")] = "5%",
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="Judge cells of different machines, too.")
    ] = False,
    format: Shape = Page.table,
) -> None:
    """Say of every cell whether it is better, worse, same or inconclusive; exit 1 only for a proven regression."""
    from refstack.results import compare as run
    from refstack.results import load

    margin = _quantity(fail_above, "--fail-above", {"%": 0.01})
    found = run(load(base, Said()), load(new, Said()), margin, across_machines, Said())
    _print([_compared(each, format) for each in found], format, ("thr", "batch", "base_ms", "new_ms", "p"))
    verdicts = [each.verdict for each in found]
    say(", ".join(f"{verdicts.count(word)} {word}" for word in ("better", "worse", "same", "inconclusive")))
    if "worse" in verdicts:
        raise typer.Exit(FAILED)


def check(results: Results, format: Shape = Page.table) -> None:
    """Hold results against reporting rules, each with its source; exit 1 if one of level error is broken."""
    from refstack.results import check as run
    from refstack.results import load
    from refstack.results.rules import RULES

    rows = load(results, Said())
    found = run(rows)
    _print([vars(each) for each in found] if format is Page.json else _by_rule(found), format, ("rows",))
    broken = {each.rule for each in found}
    errors = {each.rule for each in found if each.level == "error"}
    say(f"{len(rows)} rows: {len(RULES) - len(broken)} of {len(RULES)} rules kept, {len(errors)} errors")
    if errors:
        raise typer.Exit(FAILED)


def merge(
    results: Results,
    output: Annotated[Path, typer.Option("--output", "-o", help="New file: .jsonl a journal, .json one array.")],
) -> None:
    """Put result files together, each row once, so that runs of one cell count as repetitions."""
    from refstack.results import merge as run

    say(f"{output}: {len(run(results, output, Said()))} rows")


def findings(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Journals of bench; without, the record that refstack ships.")
    ] = None,
    format: Shape = Page.table,
) -> None:
    """Test the claims of the study and of its successor on results: holds, fails, depends, or untested."""
    from dataclasses import asdict

    from refstack.findings import findings as run
    from refstack.findings import page, shipped
    from refstack.results import load

    rows = load(results or shipped(), Said())
    found = run(rows)
    if format is Page.md:
        print(page(found, rows), end="")
        return
    about = ("id", "claim", "source", "tested", "run")
    records: list[dict[str, Any]] = []
    for each in found:
        if format is Page.json:
            head = {name: getattr(each.hypothesis, name) for name in about}
            cases = [asdict(case) for case in each.cases]
            records.append({**head, "machine": each.machine, "verdict": each.verdict, "depends_on": each.on or None,
                            "reason": each.reason, "cases": cases})  # fmt: skip
        else:
            text = f"{each.hypothesis.claim} {each.reason}"
            records.append({"hypothesis": each.hypothesis.id, "verdict": each.words, "claim and reason": text})
    _print(records, format)
    for name in dict.fromkeys(each.machine for each in found):
        verdicts = [each.verdict for each in found if each.machine == name]
        say(f"{name}: " + ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts)))


def _by_rule(found: Sequence[Problem]) -> list[dict[str, Any]]:
    """A line for each rule, with its first problem."""
    rules = {each.rule: [other for other in found if other.rule == each.rule] for each in found}
    return [
        {
            "rule": rule, "level": first.level, "rows": len(problems),
            "for example": f"{first.where}: {first.problem}", "source": first.source,
        }
        for rule, (first, *_) in rules.items() if (problems := rules[rule])
    ]  # fmt: skip


def _quantity(text: str | None, option: str, units: Mapping[str, float]) -> float:
    """A number with its unit; infinite if none was given."""
    if text is None:
        return math.inf
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(\S+)", text.strip())
    if match is None or match[2] not in units:
        raise UsageError(f"{option}: got {text!r}, wanted a number and one of {', '.join(units)}")
    return float(match[1]) * units[match[2]]


def _rows(choice: Choice) -> list[tuple[str, Row]]:
    return [(word, row) for word, row in (("best", choice.best), ("runner-up", choice.runner_up)) if row]


def _point(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"], "technique": row["technique"], "weights": row.get("weights"),
        "backend": row["backend"], "thr": row["threads"], "top1": f"{row['top1']:.2f}",
        "ms": f"{row['latency_p50_ms']:.3g}", "plan_mb": _mega(row.get("planned_bytes")),
        "stored_mb": _mega(row.get("stored_bytes")),
    }  # fmt: skip


def _mega(value: int | None) -> str | None:
    return None if value is None else f"{value / 1e6:.3g}"


def _answer(choice: Choice) -> dict[str, Any]:
    """For programs: rows without their samples."""
    from refstack.benchmark.rows import SAMPLES

    rows = {word: {k: v for k, v in row.items() if k not in SAMPLES} for word, row in _rows(choice)}
    margin = vars(choice.margin) if choice.margin else None
    return {
        "machine": choice.machine, "best": rows.get("best"), "runner_up": rows.get("runner-up"), "margin": margin,
        "nearest": choice.nearest, "doubts": list(choice.doubts),
    }  # fmt: skip


def _words(choice: Choice) -> str:
    if choice.best is None:
        return f"no point keeps the limits; {choice.nearest}"
    if choice.runner_up is None:
        return "no other point keeps the limits"
    if choice.margin is None:
        return "the runner-up's margin is not known: too few samples"
    even = " (even: the interval holds 1)" if choice.margin.low <= 1 else ""
    return f"the runner-up takes {choice.margin} times as long{even}"


def _compared(each: Comparison, format: Page) -> dict[str, Any]:
    values = {**vars(each), "ratio": vars(each.ratio) if each.ratio else None}
    if format is Page.json:
        return values
    times = {name: None if values[name] is None else f"{values[name]:.3g}" for name in ("base_ms", "new_ms")}
    shown = {**values, **times, "ratio": str(each.ratio) if each.ratio else None}
    return {"thr" if name == "threads" else name: value for name, value in shown.items()}


def _print(records: Sequence[Mapping[str, Any]], format: Page, right: Sequence[str] = ()) -> None:
    """A table, JSON or Markdown."""
    if format is not Page.md:
        show(records, View(format.value), right)
        return
    names = list(records[0]) if records else []
    print("| " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("|" + "|".join("--:" if name in right else "---" for name in names) + "|")
    for record in records:
        print("| " + " | ".join(_cell(record[name]) for name in names) + " |")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.3g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.replace("|", "\\|").split())
