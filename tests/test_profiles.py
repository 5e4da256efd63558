"""The hypothesis profiles are what CONTRIBUTING.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]


def test_profiles() -> None:
    dev, ci, nightly = (settings.get_profile(name) for name in ("dev", "ci", "nightly"))
    assert dev.max_examples < ci.max_examples < nightly.max_examples
    assert (dev.derandomize, ci.derandomize, nightly.derandomize) == (False, True, False)
    assert ci.database is None
    assert nightly.database is not None
    assert all(each.deadline is None for each in (dev, ci, nightly)), (
        "machines are shared: a slow example is no failure"
    )
    assert all(Phase.shrink in each.phases for each in (dev, ci, nightly))


@pytest.mark.parametrize(
    ("environment", "options", "said"),
    [
        ({"CI": "1"}, [], "hypothesis profile: ci, the same draws every time"),
        ({"HYPOTHESIS_PROFILE": "nightly"}, ["--hypothesis-seed=7"], "hypothesis profile: nightly, seed 7"),
    ],
)
def test_the_run_says_its_profile(environment: dict[str, str], options: list[str], said: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "HYPOTHESIS_PROFILE")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", __file__, *options]
    done = subprocess.run(command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, timeout=120)
    assert said in done.stdout, done.stdout + done.stderr
