"""bench --profile: every step once, checked, beside the roofs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import here
from networks import images, small

import refstack as rs
from refstack.benchmark.profile import StepProfile, profile
from refstack.errors import CheckFailed
from refstack.models import zoo


def test_every_step_is_timed_and_counted() -> None:
    graph = rs.compress(zoo.draw(small()), "weight", 0.5)
    plan = rs.plan(graph, batch=2, backends=("openmp",))
    found = profile(plan, images(graph, 2), rounds=3)
    assert [each.kernel for each in found] == [step.kernel.name for step in plan.steps]
    assert sum(each.share for each in found) == pytest.approx(1)
    assert all(each.ns > 0 and each.bytes > 0 for each in found)
    flops = {each.node: each.flops for each in found}
    assert flops["fc2"] == 2 * 2 * graph["fc2"].weight.nnz  # type: ignore[union-attr]
    assert flops["stem"] == 2 * 2 * graph["stem"].weight.nnz * 64  # type: ignore[union-attr]
    assert flops["pool"] == 0


def test_a_wrong_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = zoo.draw(small())
    plan = rs.plan(graph, backends=("openmp",))
    plan.steps[0].packed["bias"][...] += 1
    with pytest.raises(CheckFailed):
        profile(plan, images(graph, 1), rounds=1)


def test_against_the_roofs() -> None:
    roof = {"flops": 1e11, "read_bytes_per_s": 1e10}
    busy = StepProfile("a", "k", "c", ns=2e3, share=0.5, flops=100_000, bytes=1000).against(roof)
    assert (busy["limit"], busy["gflop_per_s"], busy["gb_per_s"]) == ("compute", 50, 0.5)
    assert busy["percent_of_roof"] == pytest.approx(50)
    idle = StepProfile("a", "k", "c", ns=1e3, share=0.5, flops=0, bytes=5000).against(roof)
    assert (idle["limit"], idle["gflop_per_s"], idle["gb_per_s"]) == ("memory", 0, 5)
    assert idle["percent_of_roof"] == pytest.approx(50)


def test_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    done = here(capfd, "bench", "--profile", "-m", "mobilenet", "-t", "dense,channel-0.9", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [f"mobilenet {technique}, openmp, 1 thread" for technique in ("dense", "channel-0.9")]
    assert (found["kind"], bool(found["env"]["cpu"])) == ("profile", True)
    assert [each["network"] for each in found["networks"]] == names
    assert all(np.isfinite(step["us"]) and step["kernel"] for each in found["networks"] for step in each["steps"])
    assert "GB/s read" in done.stderr
    done = here(capfd, "bench", "--profile", "-m", "mobilenet", "-t", "dense")
    assert "percent of roof" in done.stdout
    refused = here(capfd, "bench", "--profile", "--format", "csv")
    assert refused.returncode == 2
    assert "--format is csv, wanted table or json" in refused.stderr
