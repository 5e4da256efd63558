"""Every view shows every row, failures included."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from benching import strict_loads

from refstack.benchmark import tables


def rows_for_views() -> list[dict[str, Any]]:
    env = {"cpu": "A CPU", "threads_allowed": 2, "compiler": "gcc", "blas": "openblas", "libraries": {"numpy": "2"}}
    common = {
        "status": "ok", "status_reason": None, "model": "tiny", "backend": "blas", "threads": 1, "batch": 1,
        "quick": False, "top1": None, "top1_source": None, "top1_reason": "not measured", "samples_ns": [1],
        "latency_p90_ms": 30.0, "env": {**env, "roofs": None}, "created_utc": "2026", "weights": "trained",
        "stored_bytes": 12_000_000, "planned_bytes": 13_000_000, "peak_rss_bytes": None, "macs": 10**6,
        "max_error_vs_bound": 0.5, "format": "dense", "kernels": {},
    }  # fmt: skip
    return [
        {**common, "technique": "dense", "latency_p50_ms": 20.0},
        {**common, "technique": "weight", "latency_p50_ms": 10.0, "format": "csr"},
        {**common, "technique": "int8", "latency_p50_ms": None, "status": "failed", "status_reason": "because [x]"},
    ]


def test_speedup_is_against_the_dense_row_of_the_same_backend() -> None:
    rows = rows_for_views()
    rows.append({**rows[1], "backend": "openmp"})
    rows.append({**rows[1], "env": {**rows[1]["env"], "key": "another machine"}})
    assert [row["speedup"] for row in tables.with_ratios(rows)] == [1.0, 2.0, None, None, None]


def test_the_fastest_peer_is_the_measure_where_there_are_peers() -> None:
    rows = rows_for_views()
    assert "x peer" not in tables.columns(rows)
    rows.append({**rows[0], "backend": "onnxruntime", "peer": "onnxruntime 1.23", "latency_p50_ms": 30.0})
    rows.append({**rows[3], "backend": "ncnn", "peer": "ncnn 1.0", "peer_setting": "direct", "latency_p50_ms": 25.0})
    rows.append({**rows[3], "backend": "mnn", "peer": "MNN 3", "latency_p50_ms": None, "status": "failed"})
    rows.append({**rows[3], "threads": 2, "latency_p50_ms": 1.0})
    assert "x peer" in tables.columns(rows)
    found = [row["vs_fastest_peer"] for row in tables.with_ratios(rows)]
    assert found == [25 / 20, None, None, 25 / 30, 1.0, None, 1.0]
    assert "ncnn 1.0: direct: tiny dense 1t" in tables.notes(rows)
    assert "onnxruntime 1.23" in tables.notes(rows)


@pytest.mark.parametrize("format", tables.FORMATS)
def test_every_view_shows_every_row_failures_too(format: str, tmp_path: Path) -> None:
    path = tmp_path / "view"
    with path.open("w") as stream:
        tables.write(rows_for_views(), format, stream)
    text = path.read_text()
    assert all(word in text for word in ("dense", "weight", "int8", "failed", "because [x]"))
    if format == "json":
        assert len(strict_loads(text)) == 3
    elif format == "jsonl":
        assert len([strict_loads(line) for line in text.splitlines()]) == 3
    elif format == "csv":
        assert len(text.splitlines()) == 4
    else:
        assert "A CPU" in text
        assert format != "table" or max(map(len, text.splitlines())) <= 140


def test_what_was_tuned_is_said_below() -> None:
    rows = rows_for_views()
    assert not any("refstack tune" in note for note in tables.notes(rows))
    rows[0]["tuned"], rows[1]["tuned"] = 0, 3
    assert "layers with kernels chosen by refstack tune: 3 of tiny weight blas 1t" in tables.notes(rows)


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_a_narrow_terminal_loses_columns_not_letters(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    tables.print_table(rows_for_views(), stream)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in stream.getvalue()
    assert all(word in lines[1] for word in ("model", "technique", "backend", "ms p50 (p90)", "status"))
    assert ("err/bound" in lines[1]) == (width == 160)
