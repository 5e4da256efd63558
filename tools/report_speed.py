"""How quickly the page of `refstack report` is made and opens, with many rows, in headless Chromium.

    python tools/report_speed.py results/bench.jsonl [--rows 10000] [--width 1280]        needs playwright, chromium

Rows of the journal are repeated, each with times, top-1 and sizes of its own, until there are so many.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import refstack as rs
from refstack.benchmark.journal import encode
from refstack.results import load

WATCH = """window.seen = {}; new MutationObserver(() => {
    for (const [name, query] of [['table', 'tbody td'], ['chart', '.chart canvas, .chart svg']])
        if (!(name in seen) && document.querySelector(query)) seen[name] = performance.now();
    if (document.documentElement.dataset.ready && !seen.all) seen.all = performance.now();
}).observe(document, {subtree: true, childList: true, attributes: true});"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
FIELDS = ("planned_bytes", "peak_rss_bytes", "stored_bytes")


def many(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many rows, no two at one place."""
    draw = random.Random(0)
    found = []
    for i, row in enumerate(itertools.islice(itertools.cycle(rows), count)):
        factor = draw.uniform(0.5, 2)
        other = {name: row[name] and int(row[name] * factor) for name in FIELDS}
        times = {name: row[name] and row[name] * factor for name in ("latency_p50_ms", "latency_p90_ms")}
        samples = [int(ns * factor) for ns in row["samples_ns"]]
        top1 = row["top1"] and row["top1"] - draw.uniform(0, 5)
        found.append({**row, **other, **times, "samples_ns": samples, "top1": top1, "cell_id": f"{i}"})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("journal")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1280)
    asked = parser.parse_args()
    chromium = os.environ.get("REFSTACK_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(b"".join(encode(row) for row in many(load(asked.journal), asked.rows)))
        start = time.perf_counter()
        page = rs.report(path, Path(folder) / "report.html")
        print(f"made in {time.perf_counter() - start:.1f} s, {page.stat().st_size / 1e6:.2f} MB")
        shown = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        shown.set_viewport_size({"width": asked.width, "height": 900})
        shown.add_init_script(WATCH)
        shown.goto(page.as_uri())
        shown.wait_for_selector("html[data-ready]", state="attached", timeout=300_000)
        seen = {"first paint": shown.evaluate(PAINT), **shown.evaluate("seen")}
        print(", ".join(f"{name} {ms:.0f} ms" for name, ms in seen.items()))


if __name__ == "__main__":
    main()
