"""README's table and picture and docs/measured.md, from one journal of `refstack bench`: docs/figures/measured.jsonl.

python tools/measured.py              tables into README.md and docs/measured.md, pictures into docs/figures/ (extra
                                      `report`)
python tools/measured.py --check      exit status 1 if the tables are not those that the journal gives

Another machine's: refstack bench --backends openmp --threads 1 --fresh --output docs/figures/measured.jsonl
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refstack.benchmark import tables

ROOT = Path(__file__).resolve().parent.parent
JOURNAL = ROOT / "docs" / "figures" / "measured.jsonl"
TOLD = "resnet18"
"""The network whose rows README shows."""

LEFT_OUT = ("model", "format", "weights", "backend", "thr", "RSS MB", "status")
"""Columns that README does not show."""

Row = dict[str, Any]


def rows() -> list[Row]:
    """Of the journal, in the order of the table."""
    return [json.loads(line) for line in JOURNAL.read_text("utf-8").splitlines()]


def pages(found: Sequence[Row]) -> dict[Path, str]:
    """Each page with its table between <!-- measured --> and <!-- end --> replaced."""
    told = tables.as_markdown([row for row in found if row["model"] == TOLD])
    parts = {ROOT / "README.md": narrow(told), ROOT / "docs" / "measured.md": tables.as_markdown(found)}
    return {path: _page(path, part) for path, part in parts.items()}


def narrow(table: str) -> str:
    """A Markdown table without the columns LEFT_OUT; what stands below it stays."""
    lines = table.splitlines(keepends=True)
    names = [name.strip() for name in lines[0].split("|")]
    kept = [i for i, name in enumerate(names) if name not in LEFT_OUT]
    return "".join("|".join(line.split("|")[i] for i in kept) if line[0] == "|" else line for line in lines)


def _page(path: Path, table: str) -> str:
    text, count = re.subn(
        r"(<!-- measured -->\n).*?(<!-- end -->)",
        lambda mark: mark[1] + table + mark[2],
        path.read_text("utf-8"),
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{path}: {count} places for the table, wanted one between <!-- measured --> and <!-- end -->")
    return text


def main(arguments: Sequence[str]) -> int:
    """Write, or with --check only compare."""
    found = rows()
    wrong = [path for path, text in pages(found).items() if path.read_text("utf-8") != text]
    if list(arguments) == ["--check"]:
        for path in wrong:
            print(f"{path}: not what {JOURNAL} gives; run  python tools/measured.py", file=sys.stderr)
        return int(bool(wrong))
    for path, text in pages(found).items():
        path.write_text(text, "utf-8")
    from front import draw  # here, so that --check works without the extra

    draw(found, JOURNAL.parent)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
