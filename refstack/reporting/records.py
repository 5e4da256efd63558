"""What a report is made of: rows of bench, profiles of layers, break-evens of CSR against dense.

A profile or a break-even is one JSON object that says its `kind` first; all else is left to results.load. Both are
hostile until checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refstack.benchmark.report import Report
from refstack.benchmark.rows import Row
from refstack.errors import FormatError
from refstack.results import load

Facts = dict[str, Any]
START = re.compile(rb'\s*\{\s*"kind"\s*:')
MOST_BYTES = 1 << 26
ROOF = {"threads": float, "flops": float, "read_bytes_per_s": float}
STEP = {
    "node": str, "kernel": str, "us": float, "percent": float, "gflop_per_s": float, "gb_per_s": float, "limit": str,
    "percent_of_roof": float,
}  # fmt: skip
LAYER = {"model": str, "layer": str, "problem": str, "dense": str, "csr": str, "ratios": dict, "even": str}
WORDS = {float: "a number", str: "text", list: "a list", dict: "an object", int: "a whole number"}


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

    Raises      UsageError      a file is not there or holds nothing; FormatError     it is not what refstack writes
    """
    files = [Path(path) for path in paths]
    others = [path for path in files if _says_its_kind(path)]
    journals = [path for path in files if path not in others]
    found = Records(load(journals, report) if journals or not others else [])
    for path in others:
        record = _object(path)
        if record["kind"] == "profile":
            found.profiles.extend(_profile(record, str(path)))
        elif record["kind"] == "break-even":
            found.break_evens.append(_break_even(record, str(path)))
        else:
            raise FormatError(f"{path}: kind is {record['kind']!r}, wanted profile or break-even")
    return found


def _says_its_kind(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return START.match(file.read(100)) is not None


def _object(path: Path) -> Facts:
    """Strict JSON of a bounded size."""
    if path.stat().st_size > MOST_BYTES:
        raise FormatError(f"{path}: {path.stat().st_size} bytes, such a record is at most {MOST_BYTES}")
    try:
        found: Facts = json.loads(path.read_bytes(), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not strict JSON ({error})") from None
    return _checked(found, {"kind": str, "schema_version": int, "env": dict}, str(path))


def _profile(record: Facts, where: str) -> list[Facts]:
    found = []
    for i, each in enumerate(_checked(record, {"networks": list}, where)["networks"], 1):
        name = f"{where}: network {i}"
        _checked(each, {"network": str, "roof": dict, "steps": list}, name)
        _positive(_checked(each["roof"], ROOF, f"{name}: roof"), ("flops", "read_bytes_per_s"), f"{name}: roof")
        for j, step in enumerate(each["steps"], 1):
            _checked(step, STEP, f"{name}: step {j}")
        found.append({**each, "cpu": str(record["env"].get("cpu"))})
    return found


def _break_even(record: Facts, where: str) -> Facts:
    _checked(record, {"layers": list, "roof": dict}, where)
    _positive(_checked(record["roof"], ROOF, f"{where}: roof"), ("flops", "read_bytes_per_s"), f"{where}: roof")
    for i, layer in enumerate(record["layers"], 1):
        name = f"{where}: layer {i}"
        ratios = _checked(layer, LAYER, name)["ratios"]
        _checked(ratios, dict.fromkeys(ratios, float), f"{name}: ratios")
        _positive(ratios, ratios, f"{name}: ratios")
        if not all(re.fullmatch(r"0\.\d+|1\.0|1", density) for density in ratios):
            raise FormatError(f"{name}: densities are {', '.join(ratios)}, wanted numbers from 0 to 1")
    return {**record, "cpu": str(record["env"].get("cpu"))}


def _checked(value: Any, fields: Mapping[str, type], where: str) -> Facts:
    """The object, if it has these fields with values of these types; numbers are finite."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: got {type(value).__name__}, wanted an object")
    for name, kind in fields.items():
        got = value.get(name)
        fits = isinstance(got, int | float if kind is float else kind) and not isinstance(got, bool)
        if not fits or (isinstance(got, float) and not math.isfinite(got)):
            raise FormatError(f"{where}: {name} is {got!r:.80}, wanted {WORDS[kind]}")
    return value


def _positive(value: Facts, names: Sequence[str] | Facts, where: str) -> None:
    for name in names:
        if value[name] <= 0:
            raise FormatError(f"{where}: {name} is {value[name]!r}, wanted more than 0")


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
