"""The commands of the documentation: those of ```console blocks to be run, and all that are named anywhere.

```console                          a `$` line is a command, `>` goes on with it, the rest is what it prints
$ refstack doctor                   (numbers aside; a line `...` stands for any)
```
<!-- not run: REASON -->            on the line before a block that is only for reading
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:[ ]*<!-- not run: *(?P<reason>.*?) *-->\n)?(?P<indent>[ ]*)```console\n(?P<body>.*?)^[ ]*```$",
    re.DOTALL | re.MULTILINE,
)
OURS = r"(?:make [a-z]|refstack (?!is|it)[a-z-]|python -m (?:pytest|refstack)|python tools/)[^`\n]*"
WORDS = re.compile(rf"(?:^|[`$(]\s*| {{4}})({OURS})", re.MULTILINE)


@dataclass
class Command:
    """One command of a page.

    prints      lines that its output must hold     reason      why its block is not run, or None
    """

    page: str
    line: int
    text: str
    reason: str | None
    prints: list[str] = field(default_factory=list)


def commands(text: str, page: str) -> list[Command]:
    """The `$` lines of a page's console blocks, in order."""
    found: list[Command] = []
    for block in BLOCK.finditer(text):
        start = text.count("\n", 0, block.start("body")) + 1
        for number, shown in enumerate(block["body"].splitlines(), start):
            line = shown.removeprefix(block["indent"])
            if line.startswith("$ "):
                found.append(Command(page, number, line[2:], block["reason"]))
            elif line.startswith("> "):
                found[-1].text += "\n" + line[2:]
            elif line.strip() and line.strip() != "...":
                found[-1].prints.append(line)
    return found


def missing(prints: list[str], output: str) -> list[str]:
    """Lines that a page shows and the output lacks, numbers and spaces left aside."""
    there = {_bare(line) for line in output.splitlines()}
    return [line for line in prints if _bare(line) not in there]


def _bare(line: str) -> str:
    return " ".join(re.sub(r"\d[\d.,:]*(e[+-]?\d+)?", "#", line).split())


def named(text: str) -> list[str]:
    """Every command of ours that a page names, in code spans and blocks, comments cut off."""
    return [re.split(r"\s{3,}|  #|\s[;&|]|\\$", words)[0].strip() for words in WORDS.findall(text)]
