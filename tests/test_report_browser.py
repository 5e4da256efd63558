"""The page in a real browser: filters, fronts, hover, sort, the paper's numbers, no error, nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reported import break_even, chromium, journal, profile, record, row, rows

import refstack as rs
from refstack.reporting import page

POINTS = """metric => [...document.querySelectorAll(`[data-metric=${metric}] figure:not([hidden])`)].map(figure =>
    [...figure.querySelectorAll('path[aria-roledescription=point]')].map(mark =>
        [mark.getAttribute('aria-label'), +mark.getAttribute('opacity')]))"""
LINES = """() => [...document.querySelectorAll('[data-table=rows] tbody tr')].map(line =>
    [...line.cells].map(cell => cell.textContent))"""
BACKGROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 27)"}
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
        self.ready()

    def ready(self) -> None:
        """All charts are drawn."""
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


def test_fronts_are_those_of_the_definition_under_every_filter(seen: Seen) -> None:
    left = rows()
    for name, value in FILTERED:
        for metric, cost in (("ms", "latency_p50_ms"), ("stored", "stored_bytes")):
            shown = [mark for panel in seen.points(metric) for mark in panel]
            assert len(shown) == sum(bool(each[cost] and each["top1"]) for each in left if each["status"] == "ok")
            assert sum(opacity == 1 for _, opacity in shown) == on_front(left, cost), (metric, name)
        seen.box(name, value).uncheck()
        seen.ready()
        left = [each for each in left if str(each[name]) != value]
        assert seen.page.inner_text("#shown") == f"{len(left)} of {len(rows())} rows shown"
        assert len(seen.lines()) == len(left)
    seen.page.click("text=Show all")
    seen.page.wait_for_selector(f"#shown:has-text('{len(rows())} of')")


def test_hover_says_what_the_table_says(seen: Seen) -> None:
    mark = seen.page.locator("[data-metric=ms] path[aria-roledescription=point]").last  # on top of the others
    label = mark.get_attribute("aria-label")
    mark.hover(force=True)
    told = seen.page.locator("#vg-tooltip-element.visible").inner_text().split("\n")
    (line,) = [line for line in seen.lines() if label.startswith(", ".join(line))]
    assert [each for each in line if each not in " ".join(told)] == []
    assert any("95 % interval" in each for each in told)


def test_columns_sort_by_keyboard_and_say_so(seen: Seen) -> None:
    heads = seen.page.locator("[data-table=rows] th")
    at = heads.all_inner_texts().index("ms p50 (p90)")
    for way, turn in (("ascending", False), ("descending", True)):
        heads.nth(at).locator("button").press("Enter")
        assert heads.nth(at).get_attribute("aria-sort") == way
        assert seen.page.locator("[aria-sort]").count() == 1
        times = [line[at] for line in seen.lines()]
        numbers = [float(each.split()[0]) for each in times if each != "-"]
        assert numbers == sorted(numbers, reverse=turn)
        assert times[-1] == "-", "what failed is sorted as if it were fast"


def test_everything_is_reached_by_keyboard(seen: Seen) -> None:
    reached = set()
    for _ in range(120):
        seen.page.keyboard.press("Tab")
        reached.add(seen.page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
    wanted = seen.page.evaluate(
        "[...document.querySelectorAll('a, #theme, summary, fieldset input, #paper, button')].filter(each =>"
        " each.checkVisibility() && !each.disabled).map(each => each.outerHTML.slice(0, 60))"
    )
    assert set(wanted) <= reached
    assert seen.page.locator(".chart [role=graphics-document]").count() == len(seen.points("ms")) * 4


def test_the_papers_numbers_are_off_until_asked_for_and_on_no_front(seen: Seen) -> None:
    before = seen.points("ms")
    assert seen.page.locator(".paper").count() == 0
    seen.page.check("#paper")
    seen.ready()
    assert seen.page.locator(".paper").count() == 3, "the paper has no stored bytes"
    after = seen.points("ms")
    assert all(len(new) > len(old) for old, new in zip(before, after, strict=True))
    assert [sum("on the front" in (label or "") for label, _ in panel) for panel in after] == [
        sum("on the front" in (label or "") for label, _ in panel) for panel in before
    ]


def test_every_axis_has_a_unit(seen: Seen) -> None:
    titles = seen.page.evaluate(
        "[...document.querySelectorAll('.chart [aria-label*=\"axis titled\"]')].map(each => each.ariaLabel)"
    )
    assert len(titles) == 3 * 4 * 2
    assert all(re.search(r"titled '.*, (ms|MB|%)'", title) for title in titles)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "dark"), (390, "light")])
def test_nothing_overflows_and_text_stands_out(browser: Any, written: Path, width: int, scheme: str) -> None:
    found = Seen(browser, written, width, color_scheme=scheme)
    assert found.page.evaluate("document.documentElement.scrollWidth") == width
    ink = found.page.evaluate("document.querySelector('.chart text').getAttribute('fill')")
    assert ink == found.page.evaluate("getComputedStyle(document.body).color"), "the charts have not the page's colours"
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == BACKGROUND[scheme]
    found.page.emulate_media(media="print")
    found.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert found.page.evaluate("document.querySelector('.chart text').getAttribute('fill')") == "#1d2125"
    found.page.context.close()


def test_text_of_rows_runs_nowhere(browser: Any, tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    ill = [row(bad, bad, 1.0, 90.0, backend=bad, format=bad), {**row(bad, bad, None, None), "status_reason": bad}]
    path = rs.report(journal(tmp_path / "j.jsonl", ill), tmp_path / "r.html")
    found = Seen(browser, path)
    found.page.locator("[data-metric=ms] path[aria-roledescription=point]").last.hover(force=True)
    assert bad in found.page.locator("#vg-tooltip-element.visible").inner_text()
    assert found.page.locator("img, #data ~ script:not([src]) ~ script ~ script").count() == 0
    assert found.lines()[0][0] == bad
    assert (found.wrong, found.asked) == ([], [path.as_uri()])


def test_many_rows_are_drawn_on_canvas_and_have_pages(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LINES", 20)
    monkeypatch.setattr(page, "MARKS", 40)
    many = [row("vgg16", "dense", 1 + i / 100, 90 + i % 7 / 10, top1_n=10000 + i) for i in range(50)]
    found = Seen(browser, rs.report(journal(tmp_path / "j.jsonl", many), tmp_path / "r.html"))
    assert found.page.locator(".chart canvas").count() == 4
    assert len(found.lines()) == 20
    found.page.click("text=next")
    assert found.page.locator(".pages [role=status]").inner_text() == "rows 21 to 40 of 50"
    assert found.wrong == []


def test_layers_and_break_even_are_drawn(browser: Any, tmp_path: Path) -> None:
    files = [record(tmp_path / "p.json", profile()), record(tmp_path / "e.json", break_even())]
    found = Seen(browser, rs.report(files, tmp_path / "r.html"))
    assert found.page.locator("#layers-0 path[aria-roledescription=point]").count() == 1, (
        "a step without work was drawn"
    )
    found.page.click("#layers-0 >> text=Every step")
    assert "maxpool.float32.numpy.loop" in found.page.inner_text("#layers-0 table")
    figures = found.page.evaluate("[...document.querySelectorAll('#even-0 text')].map(each => each.textContent)")
    assert {"2.75", "0.50", "30"} <= set(figures)
    assert found.wrong == []
