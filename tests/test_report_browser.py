"""The page in a real browser: filters, fronts, hover, sort, the paper's numbers, no error, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reported import chromium, journal, rows

import refstack as rs

POINTS = """metric => [...document.querySelectorAll(`[data-metric=${metric}] figure:not([hidden])`)].map(figure =>
    [...figure.querySelectorAll('path[aria-roledescription=point]')].map(mark =>
        [mark.getAttribute('aria-label'), +mark.getAttribute('opacity')]))"""
LINES = """() => [...document.querySelectorAll('[data-table=rows] tbody tr')].map(line =>
    [...line.cells].map(cell => cell.textContent))"""
FILTERED = (("technique", "channel"), ("backend", "blas"), ("threads", "2"), ("format", "csr"), ("model", "vgg16"))


class Seen:
    """A page that is open, what it said, and what it asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **options: Any) -> None:
        self.page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: self.wrong.append("a script of a row ran"))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def points(self, metric: str) -> list[list[tuple[str, float]]]:
        found: list[list[tuple[str, float]]] = self.page.evaluate(POINTS, metric)
        return found

    def lines(self) -> list[list[str]]:
        found: list[list[str]] = self.page.evaluate(LINES)
        return found

    def box(self, name: str, value: str) -> Any:
        return self.page.locator(f'fieldset input[name="{name}"][value="{value}"]')


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return rs.report(journal(folder / "j.jsonl", rows()), folder / "r.html")


@pytest.fixture
def seen(browser: Any, written: Path) -> Iterator[Seen]:
    found = Seen(browser, written)
    yield found
    assert found.wrong == []
    assert found.asked == [written.as_uri()]
    found.page.context.close()


def on_front(found: list[dict[str, Any]], cost: str) -> int:
    """How many rows no other row of the same network and threads beats."""
    drawn = [each for each in found if each[cost] and each["top1"] and each["status"] == "ok"]

    def beats(b: dict[str, Any], a: dict[str, Any]) -> bool:
        same = (b["model"], b["threads"]) == (a["model"], a["threads"])
        better = b[cost] < a[cost] or b["top1"] > a["top1"]
        return same and better and b[cost] <= a[cost] and b["top1"] >= a["top1"]

    return sum(not any(beats(b, a) for b in drawn) for a in drawn)


@pytest.mark.parametrize(("metric", "cost"), [("ms", "latency_p50_ms"), ("stored", "stored_bytes")])
def test_fronts_are_those_of_the_definition_under_every_filter(seen: Seen, metric: str, cost: str) -> None:
    left = rows()
    for name, value in (
        ("technique", "channel"),
        ("backend", "blas"),
        ("threads", "2"),
        ("format", "csr"),
        ("model", "vgg16"),
    ):
        shown = [mark for panel in seen.points(metric) for mark in panel]
        assert len(shown) == sum(bool(each[cost] and each["top1"]) for each in left if each["status"] == "ok")
        assert sum(opacity == 1 for _, opacity in shown) == on_front(left, cost), name
        seen.box(name, value).uncheck()
        left = [each for each in left if str(each[name]) != value]
        assert seen.page.inner_text("#shown") == f"{len(left)} of {len(rows())} rows shown"
    seen.page.click("text=Show all")
    seen.page.wait_for_selector(f"#shown:has-text('{len(rows())} of')")
