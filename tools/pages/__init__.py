"""A Sphinx extension: what docs/ marks with `<!-- fill: NAME -->` is made from the code when the pages are built.

On GitHub the same pages are plain Markdown, and the marks are not seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pages import api, cli, contents, kernels, rows

MARK = re.compile(r"^<!-- fill: (\w+) -->$", re.MULTILINE)
FILLS: dict[str, Callable[[Path], str]] = {
    "api": api.page,
    "cli": cli.page,
    "contents": contents.tree,
    "decisions": contents.decisions,
    "fields": rows.fields,
    "kernels": kernels.table,
    "rules": rows.rules,
    "sources": kernels.side_by_side,
}
"""Name of a mark -> Markdown, given the folder of the pages."""


def fill(text: str, folder: Path) -> str:
    """The page with every mark replaced. ValueError for a mark that nothing fills."""

    def made(mark: re.Match[str]) -> str:
        if mark[1] not in FILLS:
            raise ValueError(f"nothing fills {mark[0]}, wanted one of {', '.join(FILLS)}")
        return FILLS[mark[1]](folder)

    return MARK.sub(made, text)


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, fill(source[0], Path(app.srcdir))))
    app.connect("autodoc-process-docstring", api.readable)
    return {"parallel_read_safe": True}
