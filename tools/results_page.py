"""The tables of docs/results.md that the code knows better: rules of `refstack check`, fields of a row.

python tools/results_page.py            writes them anew; tests/test_results_page.py says when they are old
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from refstack.benchmark.rows import schema
from refstack.results.rules import RULES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"


def rules() -> str:
    """Rules of check."""
    lines = ["| rule | level | what should be | source |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {rule.id} | {rule.level} | {rule.asks} | {rule.source} |" for rule in RULES])


def fields() -> str:
    """Fields of a row, those of `env` after it."""
    needed = schema()["required"]
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in schema()["properties"].items():
        lines.append(f"| `{name}`{' *' if name in needed else ''} | {_type(field)} | {field['description']} |")
        inner = field.get("properties", {}) if name == "env" else {}
        lines += [f"| `env.{key}` | {_type(each)} | {each['description']} |" for key, each in inner.items()]
    return "\n".join([*lines, "", "\\* in every row"])


def _type(field: dict[str, Any]) -> str:
    kinds = field.get("type", field.get("enum"))
    return kinds if isinstance(kinds, str) else " or ".join("null" if kind is None else str(kind) for kind in kinds)


def renewed(text: str) -> str:
    """The page with its tables as the code has them."""
    for name, table in (("rules", rules()), ("fields", fields())):
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = block.sub(lambda found, new=table: f"{found[1]}{new}\n{found[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
