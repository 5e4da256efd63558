"""The study on OpenCL: three networks, five techniques, every output checked, as `refstack bench` does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from benching import FAST

from refstack.backends import opencl
from refstack.benchmark import bench
from refstack.models import MODELS

pytestmark = pytest.mark.skipif(opencl.unavailable() is not None, reason=str(opencl.unavailable()))

TECHNIQUES = ("dense", "weight", "channel", "ternary", "int8")


def test_all_networks_and_techniques(tmp_path: Path) -> None:
    rows = bench(techniques=TECHNIQUES, backends="opencl", threads=2, output=tmp_path / "j.jsonl", policy=FAST)
    assert [(row["status"], row["status_reason"]) for row in rows] == [("ok", None)] * len(MODELS) * len(TECHNIQUES)
    for row in rows:
        assert row["max_error_vs_bound"] < 1
        assert row["fallbacks"] == 0, row["kernels"]
        assert row["samples_ns"]
        assert row["env"]["device"]["name"]
        assert all(name.split(".")[2] == "opencl" for name in row["kernels"])
