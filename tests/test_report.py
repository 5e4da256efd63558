"""The report's content: every row once, the table's own figures, intervals, hostile text, what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from commands import here
from reported import ENV, break_even, journal, profile, record, row, rows
from scipy.stats import binomtest

import refstack as rs
from refstack.benchmark import tables
from refstack.errors import BackendUnavailable, FormatError, UsageError
from refstack.reporting import charts, palette
from refstack.reporting.page import paper
from refstack.reporting.points import columns, machines, panels, points, wilson
from refstack.reporting.records import read

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def data(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_page_has_the_tables_figures_row_by_row(tmp_path: Path) -> None:
    found = rows()
    page = rs.report(journal(tmp_path / "j.jsonl", found), tmp_path / "r.html").read_text()
    shown = [[tables.COLUMNS[name](each) for name in tables.columns(found)] for each in tables.with_ratios(found)]
    assert [point["cells"] for point in data(page)["points"]] == shown
    assert data(page)["columns"] == tables.columns(found)
    assert "vgg16 half openmp 1t: failed: because &lt;b&gt;of&lt;/b&gt; it" in page
    assert len(page) < 5_000_000
    assert "content=\"default-src 'none'; script-src 'sha256-" in page, "the browser would let it fetch"


def test_text_of_rows_stays_text(tmp_path: Path) -> None:
    bad = {**row(HOSTILE, HOSTILE, 1.0, 90.0, backend=HOSTILE, format=HOSTILE), "env": {**ENV, "cpu": HOSTILE}}
    failed = {**row(HOSTILE, "dense", None, None), "status_reason": HOSTILE}
    page = rs.report(journal(tmp_path / "j.jsonl", [bad, failed]), tmp_path / "r.html").read_text()
    assert "alert(1)</script>" not in page
    assert page.count("<script") == 3
    assert "<img src=x" not in page
    assert data(page)["points"][0]["technique"] == HOSTILE


def test_machines_builds_and_quick_runs_are_kept_apart(tmp_path: Path) -> None:
    found = [row("m", "dense", 8.0, 90.0), row("m", "weight", 4.0, 90.0)]
    other = [{**each, "latency_p50_ms": each["latency_p50_ms"] / 4, "env": {**ENV, "key": "b"}} for each in found[1:]]
    quick = [{**each, "quick": True} for each in found]
    shown = points(machines(found + other + quick))
    assert [point["machine"] for point in shown] == ["A", "A", "B", "C", "C"]
    at = columns(machines(found + other + quick)).index("x dense")
    assert [point["cells"][at] for point in shown] == ["1.00", "2.00", "-", "1.00", "2.00"], "a ratio across machines"
    assert [each["title"] for each in panels(shown)] == ["m, machine A", "m, machine B", "m, machine C"]
    assert {point["panel"] for point in points(machines([*found, {**found[0], "batch": 8}]))} == {0, 1}
    page = rs.report(journal(tmp_path / "j.jsonl", found + other), tmp_path / "r.html").read_text()
    assert page.count('<article class="card">') == 2


def test_an_accelerator_is_a_place_of_its_own(tmp_path: Path) -> None:
    gpu = {
        "name": "a GPU",
        "platform": "p",
        "driver": "1",
        "kind": "gpu",
        "roof": {"flops": 1e12, "read_bytes_per_s": 1e11},
    }
    found = [row("m", "dense", 8.0, 90.0), row("m", "dense", 4.0, 90.0, backend="opencl", env={**ENV, "device": gpu})]
    assert [point["machine"] for point in points(machines(found))] == ["A", "B"]
    page = rs.report(journal(tmp_path / "j.jsonl", found), tmp_path / "r.html").read_text()
    assert "<h3>B: a GPU</h3>" in page
    assert "<dd>1000 GFLOP/s FMA, 100.0 GB/s read</dd>" in page


def test_what_failed_has_no_time() -> None:
    bad = {**row("m", "dense", 1.0, 90.0), "status": "failed", "status_reason": "wrong"}
    (point,) = points(machines([bad]))
    assert point["ms"] is None
    assert point["ms_low"] is None


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (9063, 10000), (1, 2)])
def test_wilson_is_scipys(correct: int, n: int) -> None:
    theirs = binomtest(correct, n).proportion_ci(0.95, "wilson")
    assert wilson(100 * correct / n, n) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-4)


def test_without_both_numbers_there_is_no_interval() -> None:
    assert wilson(None, 10) == wilson(50.0, None) == wilson(50.0, 0) == wilson(500.0, 10) == (None, None)


def test_times_carry_their_interval() -> None:
    (point,) = points(machines([row("m", "dense", 2.0, 90.0)]))
    assert point["ms_low"] <= point["ms"] * 1.03
    assert point["ms_low"] < point["ms_high"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return sum(share * each for share, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_stand_out_on_light_and_dark_and_are_told_by_shape_too() -> None:
    for colour in palette.COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, f"{colour} on white"
        assert (luminance(colour) + 0.05) / (luminance("#15181b") + 0.05) >= 3, f"{colour} on black"
    names = [str(i) for i in range(56)]
    assert len(set(zip(palette.colours(names), palette.shapes(names), strict=True))) == 56
    assert all(a != b for a, b in pairwise(palette.shapes(names)))


@pytest.mark.parametrize(("name", "start"), [("r.png", b"\x89PNG"), ("r.svg", b"<svg")])
def test_pictures(name: str, start: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "METRICS", (charts.METRICS[0], charts.METRICS[-1]))
    found = rows(2)  # of two networks
    written = rs.report(journal(tmp_path / "j.jsonl", found), tmp_path / name).read_bytes()
    assert written.startswith(start)
    if name == "r.svg":
        text = written.decode()
        assert all(
            word in text for word in ("median time of one run, ms", "tensors of the file, MB", "top-1, %", "weight")
        )
        assert text.count('aria-roledescription="point"') == 2 * 2, (
            "a panel has rows of another, or one without accuracy"
        )


def test_tables_go_to_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = journal(tmp_path / "j.jsonl", [row("m", "dense", 2.0, 90.0), row("m", "int8", 1.0, 89.0)])
    done = here(capfd, "report", str(path), "--format", "md")
    assert done.stdout == tables.as_markdown([row("m", "dense", 2.0, 90.0), row("m", "int8", 1.0, 89.0)])
    lines = list(csv.DictReader(io.StringIO(here(capfd, "report", str(path), "-f", "csv").stdout)))
    assert [(line["machine"], line["speedup"]) for line in lines] == [("A", "1.0"), ("A", "2.0")]
    assert float(lines[0]["top1_low"]) < 90 < float(lines[0]["top1_high"])
    assert float(lines[0]["latency_p50_low_ms"]) < float(lines[0]["latency_p50_high_ms"])


def test_the_verb_writes_the_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = journal(tmp_path / "j.jsonl", rows(6))
    monkeypatch.chdir(tmp_path)
    done = here(capfd, "report", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "report.html: " in done.stderr
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    path = journal(tmp_path / "j.jsonl", rows(6))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"output .*j\.jsonl: wanted a name that ends in \.html, \.md"):
        rs.report(path, path)
    with pytest.raises(UsageError, match=r"output .*r\.html: wanted a name that ends in \.png"):
        rs.report(path, tmp_path / "r.html", "png")
    assert path.read_bytes() == before
    assert not (tmp_path / "r.html").exists()


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = journal(tmp_path / "j.jsonl", rows(6))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for name in [name for name in sys.modules if name.startswith("refstack.reporting.p")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("refstack.reporting.page", raising=False)
    with pytest.raises(BackendUnavailable, match=r"format html needs jinja2: pip install .refstack-engine\[report\]"):
        rs.report(path, tmp_path / "r.html")
    assert rs.report(path, tmp_path / "r.md").read_text().startswith("| model |")


@pytest.mark.parametrize(
    ("made", "where", "value", "message"),
    [
        (profile, ("kind",), "poem", "kind is 'poem', wanted profile or break-even"),
        (profile, ("kind",), [], "kind is [], wanted profile or break-even"),
        (profile, ("networks",), 3, "networks is 3, wanted array"),
        (profile, ("networks", 0, "roof", "flops"), 0.0, "networks[0].roof.flops is 0.0, wanted more than 0"),
        (profile, ("networks", 0, "steps", 0, "us"), "fast", "networks[0].steps[0].us is 'fast', wanted number"),
        (profile, ("networks", 0, "steps", 1, "us"), math.nan, "not strict JSON (NaN is not a number of JSON)"),
        (profile, ("networks", 0, "steps", 1), None, "networks[0].steps[1] is None, wanted object"),
        (break_even, ("layers", 0, "even"), None, "layers[0].even is None, wanted string"),
        (break_even, ("layers", 0, "ratios"), {"0.1": True}, "layers[0].ratios.0.1 is True, wanted number"),
        (break_even, ("layers", 0, "ratios"), {"much": 1.0}, "density 'much' of conv1, wanted a number from 0 to 1"),
    ],
)
def test_records_are_not_believed(made: Any, where: tuple[Any, ...], value: Any, message: str, tmp_path: Path) -> None:
    whole = at = made()
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    with pytest.raises(FormatError, match=re.escape(message)):
        read([record(tmp_path / "r.json", whole)])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"env": {"cpu": "A CPU"}}, "m dense openmp: env.threads_allowed is missing"),
        ({"env": {**ENV, "libraries": "all"}}, "m dense openmp: env.libraries is 'all', wanted object"),
        ({"latency_p50_ms": "fast"}, "latency_p50_ms is 'fast', wanted number or null"),
    ],
)
def test_rows_are_not_believed(other: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=re.escape(message)):
        read([journal(tmp_path / "j.jsonl", [row("m", "dense", 1.0, 90.0, **other)])])


def test_rows_that_lack_what_may_lack_are_shown(tmp_path: Path) -> None:
    poor = {**row("m", "dense", 1.0, 90.0), "latency_p90_ms": None, "top1_source": None}
    poorer = {name: value for name, value in row("m", "int8", 1.0, 90.0).items() if not name.startswith("top1")}
    found = read([journal(tmp_path / "j.jsonl", [poor, poorer])]).rows
    assert [(tables.COLUMNS["ms p50 (p90)"](each), tables.COLUMNS["top-1 %"](each)) for each in found] == [
        ("1.00 (-)", "90.00 r"), ("1.00 (1.20)", "-"),
    ]  # fmt: skip


def test_numbers_beyond_any_are_refused(tmp_path: Path) -> None:
    text = json.dumps(profile()).replace("2.5", "1e999")
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(FormatError, match=r"not strict JSON \(1e999 is not a number"):
        read([tmp_path / "r.json"])


def test_journals_and_records_come_together(tmp_path: Path) -> None:
    files = [journal(tmp_path / "j.jsonl", rows(3)), record(tmp_path / "p.json", profile())]
    found = read([*files, record(tmp_path / "e.json", break_even())])
    assert [len(found.rows), len(found.profiles), len(found.break_evens)] == [5, 1, 1]
    with pytest.raises(UsageError, match="no such file"):
        read([tmp_path / "none.json"])


def test_the_papers_numbers_are_those_of_the_curves() -> None:
    """data/paper.json ships; docs/figures/paper.json, read by tools/curves.py, does not: one study, one accuracy."""
    curves = json.loads((Path(rs.__file__).parents[1] / "docs" / "figures" / "paper.json").read_text())
    shown = paper()
    assert "10.1109/IISWC.2018.8573503" in shown["source"]
    for each in shown["rows"]:
        assert (each["ms"] is None) != (each["memory_mb"] is None)
        if each["technique"] == "dense":
            assert each["top1"] == curves["dense"][each["model"]]
    assert {each["where"] for each in shown["rows"]} == {None, "Intel Core i7, 4 cores", "Odroid-XU4, 8 ARM cores"}
