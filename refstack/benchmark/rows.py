"""A row: what is known of one cell, as strict JSON: null where nothing is known, never NaN.

Its fields are described once, in row.schema.json (JSON Schema), which docs/results.md prints and `violations` reads.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from refstack.worker import strict as strict

SCHEMA_VERSION = 3
"""Raised when a field changes its meaning; new fields do not raise it."""

Row = dict[str, Any]

SAMPLES = ("samples_ns", "rounds", "yardstick_ns")
"""Fields that hold a number for every run or block: too long to show."""

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
LIMITS = {
    "minimum": ("at least", operator.ge),
    "exclusiveMinimum": ("more than", operator.gt),
    "maximum": ("at most", operator.le),
}


@cache
def schema() -> dict[str, Any]:
    """row.schema.json."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("row.schema.json").read_bytes())
    return found


def violations(value: Any, rule: dict[str, Any] | None = None, where: str = "") -> Iterator[str]:
    """What a row has that its schema does not allow, in words; only the words of JSON Schema that it uses are known."""
    rule = schema() if rule is None else rule
    kinds = rule.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(isinstance(value, TYPES[kind]) and (kind == "boolean" or type(value) is not bool) for kind in kinds):
        yield f"{where or 'it'} is {_short(value)}, wanted {' or '.join(kinds)}"
    elif "enum" in rule and value not in rule["enum"]:
        yield f"{where} is {_short(value)}, wanted {', '.join(map(str, rule['enum']))}"
    elif isinstance(value, dict):
        yield from (
            f"{where}{'.' * bool(where)}{name} is missing" for name in rule.get("required", ()) if name not in value
        )
        known, others = rule.get("properties", {}), rule.get("additionalProperties", {})
        for name, each in value.items():
            yield from violations(each, known.get(name, others), f"{where}.{name}" if where else name)
    elif isinstance(value, list) and "items" in rule:
        for i, each in enumerate(value):
            yield from violations(each, rule["items"], f"{where}[{i}]")
    elif isinstance(value, int | float):
        for word, (text, holds) in LIMITS.items():
            if word in rule and not holds(value, rule[word]):
                yield f"{where} is {_short(value)}, wanted {text} {rule[word]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
