"""What a plan says it takes, `planned_bytes`, is what a process that runs it takes beside the interpreter's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import images, small

import refstack as rs
from refstack import checkpoint
from refstack.backends import openmp
from refstack.benchmark import worker
from refstack.compression.trained import under
from refstack.errors import UsageError
from refstack.models import MODELS, zoo
from refstack.worker import reset_peak

TECHNIQUES = ("dense", "weight", "channel", "ternary", "int8")
MARGIN = 1.15


def measure(folder: Path, model: str, technique: str, *keep: str) -> dict[str, int]:
    """Bytes planned, and taken while planning and while running, in a fresh process."""
    if reason := openmp.unavailable():
        pytest.skip(f"openmp: {reason}")
    if reset_peak() != "baseline":
        pytest.skip("this system does not let a process start its peak anew (/proc/self/clear_refs)")
    network, _ = under(model, zoo.load(model), technique)
    checkpoint.save(network, folder / "network.safetensors", "float16")
    checkpoint.save(zoo.draw(small()), folder / "small.safetensors")
    script = Path(__file__).with_name("memory_of_plan.py")
    command = [sys.executable, str(script), str(folder / "small.safetensors"), str(folder / "network.safetensors")]
    done = subprocess.run([*command, *keep], capture_output=True, text=True, timeout=120, env=worker.environment(1))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("model", MODELS)
def test_running_takes_what_is_planned(model: str, technique: str, tmp_path: Path) -> None:
    found = measure(tmp_path, model, technique)
    assert found["running"] > 0.9 * found["planned"], "pages that are planned were never touched: nothing was measured"
    assert found["running"] <= MARGIN * found["planned"], found
    assert found["planning"] >= found["running"]


def test_a_network_that_is_kept_beside_its_plan_is_seen(tmp_path: Path) -> None:
    found = measure(tmp_path, "resnet18", "int8", "keep")
    assert found["running"] > MARGIN * found["planned"], found


@pytest.mark.parametrize("backend", ["openmp", "blas", "numpy"])
@pytest.mark.parametrize("technique", ["dense", "weight", "ternary", "channel"])
def test_a_plan_of_a_file_computes_the_same(technique: str, backend: str, tmp_path: Path) -> None:
    graph = rs.compress(zoo.draw(small()), technique)
    checkpoint.save(graph, tmp_path / "small.safetensors")
    x = images(graph, 2)
    kept, lean = (rs.plan(each, 2, (backend,)) for each in (graph, tmp_path / "small.safetensors"))
    assert np.array_equal(kept.run(x), lean.run(x))
    assert (kept.planned_bytes, lean.graph.name) == (lean.planned_bytes, graph.name)
    assert rs.check_plan(lean, x, graph=graph).passed
    with pytest.raises(UsageError, match="its plan was made from a file; to check it, give what `load` reads there"):
        rs.check_plan(lean, x)


def test_a_plan_of_a_file_is_held_to_the_file(tmp_path: Path) -> None:
    """Weights that are not those of the graph given are not right."""
    checkpoint.save(zoo.draw(small()), tmp_path / "small.safetensors")
    lean = rs.plan(tmp_path / "small.safetensors", backends=("numpy",))
    other = zoo.draw(small(), seed=1)
    assert not rs.check_plan(lean, images(other, 1), graph=other).passed


def test_a_plan_by_name() -> None:
    plan = rs.plan("mobilenet/channel", backends=("numpy",))
    assert plan.lean
    with pytest.raises(UsageError, match="unknown model 'mobilnet'"):
        rs.plan("mobilnet")
