"""What a report is made of: rows of bench, profiles of layers, break-evens of CSR against dense.

A profile or a break-even is one JSON object that says its `kind` first; all else is left to results.load. Both are
hostile until checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refstack.benchmark.report import Report
from refstack.benchmark.rows import Row, violations
from refstack.errors import FormatError
from refstack.results import load

Facts = dict[str, Any]
START = re.compile(rb'\s*\{\s*"kind"\s*:')
MOST_BYTES = 1 << 26


def _object(**fields: Facts) -> Facts:
    return {"type": "object", "required": list(fields), "properties": fields}


TEXT, NUMBER, ABOVE_0 = {"type": "string"}, {"type": "number"}, {"type": "number", "exclusiveMinimum": 0}
ROOF = _object(threads={"type": "integer"}, flops=ABOVE_0, read_bytes_per_s=ABOVE_0)
STEP = _object(
    node=TEXT, kernel=TEXT, limit=TEXT, us=NUMBER, percent=NUMBER, gflop_per_s=NUMBER, gb_per_s=NUMBER,
    percent_of_roof=NUMBER,
)  # fmt: skip
NETWORK = _object(network=TEXT, roof=ROOF, steps={"type": "array", "items": STEP})
RATIOS = {"type": "object", "additionalProperties": ABOVE_0}
LAYER = _object(model=TEXT, layer=TEXT, problem=TEXT, dense=TEXT, csr=TEXT, even=TEXT, ratios=RATIOS)
ENV = _object(cpu=TEXT)
MACHINE = _object(cpu=TEXT, threads_allowed={}, compiler={}, blas={}, libraries=_object(numpy={}))
MACHINE["properties"]["roofs"] = {"type": ["array", "null"], "items": ROOF}
MACHINE["properties"]["device"] = {
    "type": ["object", "null"],
    "properties": {"roof": {**_object(flops=ABOVE_0, read_bytes_per_s=ABOVE_0), "type": ["object", "null"]}},
}
NO_TOP1 = dict.fromkeys(("top1", "top1_source", "top1_reason"))
KINDS = {
    "profile": _object(env=ENV, networks={"type": "array", "items": NETWORK}),
    "break-even": _object(env=ENV, roof=ROOF, layers={"type": "array", "items": LAYER}),
}
"""JSON Schema of a record, by its kind."""


@dataclass(frozen=True)
class Records:
    """Everything that the files hold.

    profiles        one for each network: `network`, `roof`, `steps`, and `cpu` of the machine
    break_evens     `layers`, each with `ratios` by density, `roof` and `cpu`
    """

    rows: list[Row] = field(default_factory=list)
    profiles: list[Facts] = field(default_factory=list)
    break_evens: list[Facts] = field(default_factory=list)


def read(paths: Sequence[str | Path], report: Report | None = None) -> Records:
    """Everything in these files.

    Raises      UsageError      a file is not there or holds nothing
                FormatError     it is not what refstack writes
    """
    files = [Path(path) for path in paths]
    others = [path for path in files if _says_its_kind(path)]
    journals = [path for path in files if path not in others]
    found = Records([_shown(row) for row in load(journals, report)] if journals or not others else [])
    for path in others:
        record = _checked(path)
        cpu = {"cpu": record["env"]["cpu"]}
        if record["kind"] == "profile":
            found.profiles.extend({**network, **cpu} for network in record["networks"])
        else:
            found.break_evens.append({**record, **cpu})
    return found


def _shown(row: Row) -> Row:
    """A row that has what every view names; load asks for less."""
    for problem in violations(row["env"], MACHINE):
        raise FormatError(f"{row['model']} {row['technique']} {row['backend']}: env.{problem}: the row cannot be shown")
    return {**NO_TOP1, **row}


def _says_its_kind(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return START.match(file.read(100)) is not None


def _checked(path: Path) -> Facts:
    """Strict JSON of a bounded size, with the fields of its kind."""
    if path.stat().st_size > MOST_BYTES:
        raise FormatError(f"{path}: {path.stat().st_size} bytes, such a record has at most {MOST_BYTES}")
    try:
        found: Facts = json.loads(path.read_bytes(), parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not strict JSON ({error})") from None
    if str(found["kind"]) not in KINDS:
        raise FormatError(f"{path}: kind is {found['kind']!r:.60}, wanted {' or '.join(KINDS)}")
    for problem in violations(found, KINDS[found["kind"]]):
        raise FormatError(f"{path}: {problem}: no {found['kind']} of refstack")
    for layer in found.get("layers", ()):
        if wrong := [density for density in layer["ratios"] if not re.fullmatch(r"0\.\d{1,9}|1(\.0)?", density)]:
            raise FormatError(f"{path}: density {wrong[0]!r:.60} of {layer['layer']}, wanted a number from 0 to 1")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refused(text)


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")
