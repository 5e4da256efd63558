"""The clock: as many samples as were asked for, and none of a plan that no longer gives what was checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tuned
from networks import images

import refstack as rs
from refstack.backends import Step
from refstack.benchmark import choices, profile
from refstack.benchmark.clock import LEAST, Checked, checked, time_plans, time_steps
from refstack.benchmark.profile import networks
from refstack.errors import CheckFailed
from refstack.graph import Graph
from refstack.models import zoo

GRAPH = tuned.network()
X = images(GRAPH, 1)


def made(graph: Graph = GRAPH) -> Checked:
    return checked(rs.plan(graph, 1, "numpy"), X)


def test_a_wrong_plan_is_not_given_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.rows(monkeypatch, {"wrong": lambda step: step.output.__iadd__(1)})
    with pytest.raises(CheckFailed, match=r"conv2d\.dense\.numpy\.wrong"):
        made()


def test_samples_of_every_step_and_every_plan() -> None:
    plans = [made(), made()]
    for seconds, count in ((np.inf, 7), (0.0, LEAST)):
        steps = time_steps(plans, X, 7, seconds)
        assert [len(ns) for ns in steps] == [len(each.plan.steps) for each in plans]
        assert all(len(samples) == count and min(samples) > 0 for ns in steps for samples in ns)
        whole = time_plans(plans, X, 7, seconds)
        assert [len(ns) for ns in whole] == [count, count]
        assert all(min(ns) > 0 for ns in whole)


def test_an_output_that_changes_after_the_check_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [False]

    def later(step: Step) -> None:
        if broken[0]:
            step.output[...] += 1

    tuned.rows(monkeypatch, {"later": later})
    good = made()
    broken[0] = True
    with pytest.raises(CheckFailed, match="tuned: its steps one by one give another output than the plan"):
        time_steps([good], X, 1)
    with pytest.raises(CheckFailed, match="tuned: an output of the timed runs differs from the checked one"):
        time_plans([good], X, 1)


def test_profiles_are_of_the_tuned_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFSTACK_TUNING_FILE", str(tmp_path / "tuning.json"))
    tuned.rows(monkeypatch, {"slow": tuned.HONEST, "fast": tuned.HONEST})
    monkeypatch.setattr(zoo, "load", lambda name: GRAPH)
    monkeypatch.setattr(profile, "refused", lambda kernels: {})  # no kernel of refstack's, so none that verify knows
    case = next(step.case.word for step in made().plan.steps if step.node.name == "b")
    fast, slow = "conv2d.dense.numpy.fast", "conv2d.dense.numpy.slow"
    choices.keep("numpy", 1, {case: choices.Found(fast, slow, {fast: 1.0, slow: 2.0})})
    for use, kernel in ((True, fast), (False, slow)):
        ((_, _, steps),) = networks(["tuned.safetensors"], ["dense"], ["numpy"], [1], tuned=use)
        assert {step.kernel for step in steps if step.node in "bc"} == {kernel}
