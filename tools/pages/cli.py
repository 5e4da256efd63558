"""The command line's reference: every verb with its arguments and options, from what `--help` is made of."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import typer

from refstack.cli import EPILOG, app


def page(folder: Path) -> str:
    """A section a verb."""
    return "\n".join([EPILOG, "", *_sections(typer.main.get_command(app), "refstack")])


def _sections(command: Any, name: str) -> list[str]:
    lines = [] if name == "refstack" else [f"## {name}", ""]
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    lines += ["```text", usage, "```", "", command.help or "", "", *_table(command.params)]
    for verb, each in getattr(command, "commands", {}).items():
        lines += _sections(each, f"{name} {verb}")
    return lines


def _table(params: list[Any]) -> list[str]:
    """One row an argument or option; --help itself is left out."""
    rows = [_row(each) for each in params if each.name != "help"]
    return ["| | | default |", "|---|---|---|", *rows, ""] if rows else []


def _row(param: Any) -> str:
    """Of what both click and typer's own copy of it offer."""
    words = [each if each.startswith("-") else each.upper() for each in (*param.opts, *param.secondary_opts)]
    default = param.default
    said = param.help or ""
    if isinstance(default, enum.Enum):
        said += " One of " + ", ".join(f"`{each.value}`" for each in type(default)) + "."
    return f"| {', '.join(f'`{word}`' for word in words)} | {said.strip()} | {_default(param)} |".replace("*", "\\*")


def _default(param: Any) -> str:
    if param.required:
        return "(to be given)"
    value = param.default.value if isinstance(param.default, enum.Enum) else param.default
    if isinstance(value, bool):
        return f"`{(param.opts if value else param.secondary_opts)[0]}`" if param.secondary_opts else ""
    return "" if value in (None, "", []) else f"`{value}`"
