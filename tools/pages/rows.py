"""The result file's reference: every field of a row from its JSON Schema, and every rule that rows are held to."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from refstack.results.rules import RULES


def fields(folder: Path) -> str:
    """A line a field, in the schema's order; those that a row must have say so."""
    schema = json.loads((files("refstack.benchmark") / "row.schema.json").read_text("utf-8"))
    lines = [schema["description"], "", "| field | type | | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        must = "required" if name in schema["required"] else ""
        meaning = field.get("description", "").replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{name}` | {_type(field)} | {must} | {meaning} |")
    return "\n".join([*lines, ""])


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{each}`" if each is not None else "null" for each in field["enum"])
    kinds = field.get("type", "any")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def rules(folder: Path) -> str:
    """What `refstack check` asks, with who asks for it."""
    lines = ["| rule | level | asks for | source |", "|---|---|---|---|"]
    lines += [f"| `{each.id}` | {each.level} | {each.asks} | {each.source} |" for each in RULES]
    return "\n".join([*lines, ""])
