"""The page: template, style, script, Vega and data in one file. Text of rows is escaped, or data, never HTML."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import vl_convert
from jinja2 import Environment
from markupsafe import Markup

import refstack
from refstack.benchmark import tables
from refstack.benchmark.machine import limits
from refstack.benchmark.rows import strict
from refstack.models import zoo
from refstack.reporting import charts, layers, palette
from refstack.reporting.picture import VERSION
from refstack.reporting.points import Machine, Point, columns, machines, panels, points
from refstack.reporting.records import Records
from refstack.results import accelerator, device

FILTERS = ("model", "technique", "format", "backend", "threads", "batch", "machine")
FACTS = {
    "cores_physical": "cores", "threads_allowed": "threads allowed", "simd": "SIMD", "caches_bytes": "caches",
    "memory_bytes": "memory", "governor": "governor", "os": "system", "libc": "C library", "compiler": "compiler",
    "compiler_flags": "flags", "blas": "BLAS", "python": "Python", "libraries": "libraries", "refstack": "refstack",
    "code": "code", "load_average": "load before",
}  # fmt: skip
LINES, MARKS = 200, 2000
"""A table's lines on a page; marks of a chart that are drawn one by one as SVG, which a screen reader can read."""
SNIPPET = "window.vegaEmbed = vegaEmbed;"
PAPER = {"paper": "the paper (IISWC 2018)", "where": None, "threads": None, "ms": None, "memory_mb": None}


def page(records: Records) -> str:
    """The whole page as HTML."""
    found = machines(records.rows)
    shown = points(found)
    names, heads = charts.names(shown), columns(found)
    script, vega = _own("page.js"), _vega()
    data = {
        "page": LINES,
        "many": MARKS,
        "points": shown,
        "columns": heads,
        "text": [name in (*tables.TEXT, "machine") for name in heads],
        "panels": panels(shown),
        "paper": paper()["rows"],
        "onPaper": [metric.field for metric in charts.METRICS if metric.paper],
        "specs": {metric.field: charts.panel(metric, names) for metric in charts.METRICS},
        **_layers(records),
    }
    environment = Environment(autoescape=True, trim_blocks=False)
    return environment.from_string(_own("page.html.j2")).render(
        title="refstack: what compression costs, measured",
        version=refstack.__version__,
        summary=_summary(shown, found),
        sections=_sections(records),
        cards=[_card(machine) for machine in found],
        filters=_filters(shown, names) if shown else [],
        paper=paper(),
        metrics=charts.METRICS,
        profiles=[{"network": each["network"], "words": layers.words(each)} for each in records.profiles],
        break_evens=[{"words": layers.words(each)} for each in records.break_evens],
        failures=[f"{_of(machine, found)}{line}" for machine in found for line in tables.failures(machine.rows)],
        notes=[f"{_of(machine, found)}{line}" for machine in found for line in tables.notes(machine.rows)],
        css=Markup(_own("page.css")),
        script_hashes=Markup(" ".join(_hash(text) for text in (vega, script))),
        vega=Markup(vega),
        script=Markup(script),
        data=Markup(_json(data)),
    )


def _layers(records: Records) -> dict[str, Any]:
    """Charts and tables of single layers, by the name of their place in the template."""
    charts, tables = {}, {}
    for i, each in enumerate(records.profiles):
        charts[f"layers-{i}"], tables[f"layers-{i}"] = layers.roofline(each), layers.steps(each)
    for i, each in enumerate(records.break_evens):
        charts[f"even-{i}"], tables[f"even-{i}"] = layers.even(each), layers.shares(each)
    return {"charts": charts, "tables": tables}


def paper() -> dict[str, Any]:
    """The paper's numbers (data/paper.json), each with the word that marks it."""
    found: dict[str, Any] = json.loads((zoo.data_dir() / "paper.json").read_text("utf-8"))
    found["rows"] = [{**PAPER, **row} for row in found["rows"]]
    return found


def _json(value: Any) -> str:
    """JSON that ends no script element."""
    text = json.dumps(strict(value), allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and their embedding as one script: seconds to bundle."""
    return vl_convert.javascript_bundle(SNIPPET, vl_version=VERSION).replace("</script", "<\\/script")


def _own(name: str) -> str:
    return (files("refstack.reporting") / name).read_text("utf-8")


def _hash(script: str) -> str:
    """As a content security policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _filters(shown: Sequence[Point], names: charts.Names) -> list[dict[str, Any]]:
    """Fields with their values; the marks of techniques and dashes of threads make them the charts' legend."""
    made = []
    for field in FILTERS:
        values = _once(point[field] for point in shown)
        if field in ("threads", "batch"):
            values.sort()
        if field == "batch" and len(values) == 1:
            continue
        choices = [{"value": value, "words": value} for value in values]
        if field == "technique":
            for choice, path, colour in zip(choices, palette.shapes(values), palette.colours(values), strict=True):
                choice |= {"path": path, "colour": colour}
        if field == "threads":
            for choice, dash in zip(choices, palette.dashes(names.threads), strict=True):
                choice["dash"] = " ".join(map(str, dash))
        made.append({"field": field, "choices": choices})
    return made


def _card(machine: Machine) -> dict[str, Any]:
    env = machine.env
    name = accelerator(machine.rows[-1]) or env["cpu"]
    quick = ", quick run" if machine.rows[-1]["quick"] else ""
    facts = [(words, _fact(env[name])) for name, words in FACTS.items() if env.get(name) not in (None, "", [], {})]
    facts += [("limits", limits(roof)) for roof in env.get("roofs") or []]
    for used in _once(json.dumps(device(row)) for row in machine.rows if device(row)):
        facts += _device(json.loads(used))
    when = sorted({row["created_utc"][:16].replace("T", " ") for row in machine.rows if row.get("created_utc")})
    facts.append(("measured", " to ".join(dict.fromkeys((when[0], when[-1]))) + " UTC" if when else "-"))
    facts.append(("rows", _count(row["status"] for row in machine.rows)))
    return {"name": f"{machine.name}: {name}{quick}", "facts": facts}


def _device(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What OpenCL rows ran on, with its own limits if it is no processor."""
    words = _fact({name: found[name] for name in ("name", "platform", "driver", "compute_units") if found.get(name)})
    roof = found.get("roof")
    return [("OpenCL", words), *([("its limits", limits({"threads": 1, **roof}).partition(": ")[2])] if roof else [])]


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _bytes(value) if isinstance(value, int) and value >= 1 << 14 else str(value)


def _bytes(value: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1024:.3g} KiB"


def _count(values: Iterable[str]) -> str:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return ", ".join(f"{n} {value}" for value, n in found.items())


def _summary(shown: Sequence[Point], found: Sequence[Machine]) -> str:
    if not shown:
        return "Layers by themselves."
    counts = {field: len({point[field] for point in shown}) for field in ("model", "technique", "backend", "machine")}
    words = ", ".join(f"{n} {field}{'s' * (n > 1)}" for field, n in counts.items())
    checked = "No row has a time unless its output was checked in the same process."
    return f"{len(shown)} rows: {_count(point['status'] for point in shown)}; {words}. {checked}"


def _sections(records: Records) -> list[tuple[str, str]]:
    rows = [("machines", "Machines"), ("fronts", "Accuracy against time, memory, bytes")] if records.rows else []
    layers = [("layers", "Layers")] if records.profiles else []
    even = [("even", "CSR against dense")] if records.break_evens else []
    return [*rows, *layers, *even, *([("table", "Table")] if records.rows else [])]


def _of(machine: Machine, found: Sequence[Machine]) -> str:
    return f"{machine.name}: " if len(found) > 1 else ""


def _once(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
