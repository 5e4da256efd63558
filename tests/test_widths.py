"""Kernels built for narrower vectors than this machine's own: AVX2, what every x86-64 has, AVX-512 without VNNI."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refstack_command

from refstack.backends import openmp
from refstack.backends.compilers import cpu_features
from refstack.benchmark import worker

BUILDS = {
    "x86-64": (4, "sse2", "*"),
    "x86-64-v3": (8, "avx2", "*"),
    "x86-64-v4": (16, "avx512vl", "*.int8.*"),
}
"""-march -> vector width, an instruction set without which it does not run, the kernels that such a build changes."""

NETWORKS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import refstack as rs
from networks import chain, images, small
from refstack.backends import openmp
from refstack.compression.calibration import smooth_images
from refstack.models import zoo
found = {}
for build in (small, chain):
    graph = zoo.draw(build())
    for technique in ("dense", "weight", "ternary", "int8"):
        given = {"calibration": images(graph, 8)} if technique == "int8" else {}
        plan = rs.plan(rs.compress(graph, technique, **given), 2, ("openmp",), 2)
        found[f"{graph.name} {technique}"] = rs.check_plan(plan, images(graph, 2)).problem
print(json.dumps({"width": openmp.library().rs_vector_width(), "problems": found}))
"""


def narrow(march: str) -> dict[str, str]:
    """Environment of such a build; skips where it cannot run."""
    if reason := openmp.unavailable():
        pytest.skip(f"openmp: {reason}")
    if platform.machine() != "x86_64" or BUILDS[march][1] not in cpu_features().split():
        pytest.skip(f"-march={march}: this machine has no {BUILDS[march][1]}")
    return {"REFSTACK_CFLAGS": f"-march={march}"}


@pytest.mark.parametrize("march", BUILDS)
def test_kernels_of_this_width_are_right(march: str, tmp_path: Path) -> None:
    env, kernels = narrow(march), BUILDS[march][2]
    ask = ("verify", "-b", "openmp", "-k", kernels, "--examples", "12", "--threads", "1,2", "--format", "json")
    done = refstack_command(*ask, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 40 or kernels != "*"
    whole_maps = [each["kernel"] for each in found if each["kernel"].endswith(".map")]
    assert kernels != "*" or not whole_maps, "only vectors of 16 have those: this is another build"
    assert {(each["state"], each["cases"]) for each in found} == {("PASS", 12)}


@pytest.mark.parametrize("march", BUILDS)
def test_networks_on_this_width_are_right(march: str) -> None:
    env = worker.environment(1) | narrow(march)
    command = [sys.executable, "-c", NETWORKS, str(Path(__file__).parent)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["width"] == BUILDS[march][0]
    assert found["problems"]
    assert not any(found["problems"].values()), found
