"""The tree of pages, from the links of docs/index.md: a page that is not linked there still has a place."""

from __future__ import annotations

import re
from pathlib import Path

LINK = re.compile(r"\]\(([\w/.-]+)\.md\)")


def tree(folder: Path) -> str:
    """A hidden toctree for every section of the index, and one for pages that it does not name."""
    _, *sections = re.split(r"^## ", (folder / "index.md").read_text("utf-8"), flags=re.MULTILINE)
    found, named = dict[str, list[str]](), set[str]()
    for section in sections:
        pages = [page for page in dict.fromkeys(LINK.findall(section)) if page not in named]
        found[section.partition("\n")[0]] = pages
        named.update(pages)
    others = [path.stem for path in sorted(folder.glob("*.md")) if path.stem not in (*named, "index")]
    return "".join(_toctree(title, pages) for title, pages in {**found, "Other pages": others}.items() if pages)


def decisions(folder: Path) -> str:
    """The decisions in order."""
    return _toctree("", [path.stem for path in sorted(folder.glob("decisions/0*.md"))], hidden=False)


def _toctree(title: str, pages: list[str], hidden: bool = True) -> str:
    options = [":hidden:"] * hidden + [f":caption: {title}"] * bool(title)
    return "\n".join(["```{toctree}", *options, "", *pages, "```", ""])
