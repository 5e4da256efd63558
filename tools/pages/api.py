"""The Python interface's reference: autodoc on refstack's public names, and a readable form of its docstrings.

A docstring here is prose, a formula, then fields in columns (Args, Returns ..). Only the prose is prose; the rest is
shown as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import refstack

FIELD = re.compile(r"(Args|Returns|Raises|Cost|Numerics|Layout|Source|Next)\b")


def page(folder: Path) -> str:
    """An autodoc directive for each name of `refstack.__all__`: functions first, then classes."""
    named = sorted(refstack.__all__, key=lambda name: (isinstance(getattr(refstack, name), type), name))
    return "\n".join(["```{eval-rst}", *(line for name in named for line in _directive(name)), "```", ""])


def _directive(name: str) -> list[str]:
    if not isinstance(getattr(refstack, name), type):
        return [f".. autofunction:: refstack.{name}", ""]
    return [f".. autoclass:: refstack.{name}", "   :members:", "   :exclude-members: __new__, __init__", ""]


def readable(app: Any, what: str, name: str, object: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook: docstring lines become reST, in place."""
    lines[:] = list(as_rest("\n".join(lines)))


def as_rest(docstring: str) -> Iterator[str]:
    """Prose as paragraphs; formulas and fields as one literal block each."""
    paragraphs = re.split(r"\n\s*\n", docstring.strip("\n"))
    for literal, group in groupby(paragraphs, key=_literal):
        if literal:
            yield ".. code-block:: text"
            yield ""
            yield from (f"    {line}" for line in "\n\n".join(group).split("\n"))
            yield ""
        else:
            for paragraph in group:
                yield from _prose(paragraph).split("\n")
                yield ""


def _literal(paragraph: str) -> bool:
    """A field, or anything set off by spaces."""
    return bool(FIELD.match(paragraph)) or any(re.match(r"\s{2,}|.*\S {3,}\S", line) for line in paragraph.split("\n"))


def _prose(text: str) -> str:
    """Code in double backticks; nothing else means anything to reST."""
    words = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{w}`" if w.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", w) for w in words)
