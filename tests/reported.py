"""What the tests of `refstack report` share: rows as bench writes them, and a browser."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from refstack.benchmark.journal import encode

Row = dict[str, Any]
ENV = {
    "key": "a", "host": "h", "cpu": "A CPU", "threads_allowed": 2, "compiler": "gcc", "blas": "openblas",
    "libraries": {"numpy": "2"}, "simd": ["avx2"], "caches_bytes": {"L1": 32768}, "memory_bytes": 1 << 33,
    "roofs": [{"threads": 1, "flops": 1e11, "read_bytes_per_s": 1e10}],
}  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def row(model: str, technique: str, ms: float | None, top1: float | None, **other: Any) -> Row:
    """One row; `ms` None: it failed."""
    samples = [int(ms * 1e6 * (0.98 + 0.01 * (i // 8))) for i in range(40)] if ms else []
    return {
        "schema_version": 3, "refstack_version": "0.1.0", "cell_id": f"{model}{technique}{other}",
        "status": "ok" if ms else "failed",
        "status_reason": None if ms else "because <b>of</b> it", "model": model, "technique": technique,
        "backend": "openmp", "threads": 1, "batch": 1, "quick": False, "format": "dense", "level": None,
        "weights": "trained", "point": None, "top1": top1, "top1_n": top1 and 10000,
        "top1_source": top1 and "recorded:x", "top1_reason": None if top1 else "not measured",
        "latency_p50_ms": ms, "latency_p90_ms": ms and 1.2 * ms, "samples_ns": samples, "rounds": [8] * 5 if ms else [],
        "stored_bytes": 10**7, "planned_bytes": 2 * 10**7, "peak_rss_bytes": 5 * 10**7, "macs": 10**6,
        "max_error_vs_bound": 0.5, "kernels": {}, "tuned": 0, "env": ENV,
        "created_utc": "2026-11-25T21:03:44+00:00", **other,
    }  # fmt: skip


def rows(n: int = 60, seed: int = 0) -> list[Row]:
    """Cells of three networks at random times and accuracies, with ties, a failed one and one without an accuracy."""
    draw = random.Random(seed)
    found = []
    for i in range(n):
        size = draw.choice((10**6, 3 * 10**6, 10**7))
        other = {"backend": ("openmp", "blas")[i % 2], "threads": 1 + i % 2, "format": ("dense", "csr")[i // 30 % 2]}
        other |= {"stored_bytes": size, "planned_bytes": 2 * size}
        names = ("vgg16", "resnet18", "mobilenet")[i % 3], ("dense", "weight", "channel", "ternary", "int8")[i % 5]
        found.append(row(*names, round(draw.uniform(1, 9), 1), round(draw.uniform(88, 92), 1), **other))
    return [*found, row("vgg16", "half", None, 90.0), row("vgg16", "half", 0.01, None, backend="blas")]


def journal(path: Path, found: list[Row]) -> Path:
    path.write_bytes(b"".join(map(encode, found)))
    return path


def profile() -> Row:
    """What `bench --profile --format json` prints: a step with work, one without."""
    roof = {"threads": 1, "flops": 1e11, "read_bytes_per_s": 1e10}
    step = {"node": "conv1", "kernel": "conv2d.csr.openmp.planar", "case": "c", "us": 2.5, "percent": 80.0}
    step |= {"gflop_per_s": 50.0, "gb_per_s": 5.0, "limit": "compute", "percent_of_roof": 50.0}
    idle = {**step, "node": "pool", "kernel": "maxpool.float32.numpy.loop", "gflop_per_s": 0, "limit": "memory"}
    networks = [{"network": "tiny dense, openmp, 1 thread", "roof": roof, "steps": [step, idle]}]
    return {"kind": "profile", "schema_version": 1, "created_utc": "2026", "env": ENV, "networks": networks}


def break_even() -> Row:
    """What `tools/break_even.py --json` writes."""
    layer = {"model": "vgg16", "layer": "conv1", "problem": "n1", "dense": "winograd4", "csr": "planar", "even": "30 %"}
    made = {"kind": "break-even", "schema_version": 1, "created_utc": "2026", "env": ENV}
    return {
        **made,
        "roof": profile()["networks"][0]["roof"],
        "layers": [{**layer, "ratios": {"0.02": 2.75, "0.6": 0.5}}],
    }


def record(path: Path, value: Row) -> Path:
    path.write_text(json.dumps(value))
    return path


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser. Without one the test is skipped, but fails where CI is set."""
    asked = os.environ.get("REFSTACK_CHROMIUM")
    path = asked or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"no browser ({', '.join(BROWSERS)}): apt install chromium, or set REFSTACK_CHROMIUM to its path"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test installs it")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
