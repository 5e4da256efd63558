"""README's table and picture are those of the journal beside them."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    yield importlib.import_module("measured")
    for name in ("measured", "front"):
        sys.modules.pop(name, None)


def test_the_tables_are_what_the_journal_gives(measured: ModuleType) -> None:
    assert measured.main(["--check"]) == 0
    rows = measured.rows()
    assert len(rows) == 18
    assert all((row["status"], row["quick"], row["tuned"]) == ("ok", False, 0) for row in rows)


def test_a_table_that_is_not_is_seen(measured: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured.rows()
    monkeypatch.setattr(measured, "rows", lambda: [{**row, "top1": 99.0} for row in rows])
    assert measured.main(["--check"]) == 1


def test_columns_are_left_out(measured: ModuleType) -> None:
    table = "| model | x dense | thr |\n|---|--:|--:|\n| vgg16 | 1.00 | 2 |\n\nbelow | it\n"
    assert measured.narrow(table) == "| x dense |\n|--:|\n| 1.00 |\n\nbelow | it\n"


def test_a_page_without_a_place_is_refused(measured: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("<!-- measured -->\n")
    with pytest.raises(SystemExit, match="0 places for the table, wanted one"):
        measured._page(tmp_path / "page.md", "")


def test_the_pictures_show_the_journal(measured: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("altair", reason='pictures need Altair: pip install "refstack-engine[report]"')
    front = importlib.import_module("front")
    best = [(row["model"], row["technique"]) for row in front.front(measured.rows())]
    assert best[0] == ("mobilenet", "channel")
    assert best[-1] == ("resnet18", "dense")
    assert front.SURPRISE not in best
    assert front.front([{"latency_p50_ms": 1, "top1": 2}, {"latency_p50_ms": 2, "top1": 2}]) == [
        {"latency_p50_ms": 1, "top1": 2}
    ], "as accurate and slower is beaten"
    front.draw(measured.rows(), tmp_path)
    for name in front.THEMES:
        drawn, kept = ((folder / f"{name}.svg").read_text() for folder in (tmp_path, measured.JOURNAL.parent))
        assert marks(drawn) == marks(kept), "run  python tools/measured.py"
        assert "times dense's time" in kept
    assert len(marks(kept)) == 18


def marks(svg: str) -> list[str]:
    """What a screen reader says of each point: milliseconds, accuracy, network."""
    return re.findall(
        r'aria-label="(millisec[^"]*network[^"]*)" role="graphics-symbol" aria-roledescription="point"', svg
    )
