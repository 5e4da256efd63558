"""The two times that are taken inside this process: of every step of a plan, and of whole plans side by side.

Plans take turns, so that a slow moment of the machine falls on all of them. Only checked plans are given here: each
comes with the output that its check saw, and must still give it afterwards.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from refstack.backends import stopwatch
from refstack.compare import check_plan
from refstack.errors import CheckFailed
from refstack.formats import Array
from refstack.planner import Plan

LEAST = 2
"""Rounds that are taken in any case."""


@dataclass(frozen=True, eq=False)
class Checked:
    """A plan whose every step was inside its bound, and what it gave."""

    plan: Plan
    output: Array


def checked(made: Plan, x: Array, oracle: Array | None = None) -> Checked:
    """CheckFailed if a step is wrong. `oracle` as for check_plan."""
    verdict = check_plan(made, x, oracle)
    if not verdict.passed:
        raise CheckFailed(verdict.problem)
    return Checked(made, verdict.output)


def time_steps(plans: Sequence[Checked], x: Array, rounds: int, seconds: float = math.inf) -> list[list[list[int]]]:
    """ns of each step of each plan, round by round; steps are called one by one, in order, so caches are as in a run.

    Args        x           float32 (batch, c, h, w)
                seconds     begin no round after so many, but take LEAST at least
    Returns     plan -> step -> samples, of all parts of the batch together, the first round left out
    Raises      CheckFailed     the steps one by one do not give the plan's output
    """
    watches = [_watches(each.plan) for each in plans]
    samples: list[list[list[int]]] = [[[] for _ in each.plan.steps] for each in plans]
    begin = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > LEAST and time.perf_counter() - begin > seconds:
            break
        for each, runs, taken in zip(plans, watches, samples, strict=True):
            for ns, found in zip(taken, _once(each, runs, x), strict=True):
                ns.append(found)
    return [[ns[1:] for ns in taken] for taken in samples]


def _once(each: Checked, watches: Sequence[Callable[[], list[int]]], x: Array) -> list[int]:
    """ns of each step, of all parts together."""
    parts: list[list[int]] = []
    y = each.plan.by_parts(x, lambda: parts.append([ns for watch in watches for ns in watch()]))
    _still(each, y, "its steps one by one give another output than the plan")
    return [sum(ns) for ns in zip(*parts, strict=True)]


def time_plans(
    plans: Sequence[Checked], x: Array, rounds: int, seconds: float = math.inf, seed: int = 0
) -> list[list[int]]:
    """ns of each run of each plan, one run of each a round, in an order shuffled anew; arguments as for time_steps.

    Raises      CheckFailed     an output is not the checked one
    """
    rng, order = random.Random(seed), list(range(len(plans)))
    samples: list[list[int]] = [[] for _ in plans]
    begin = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > LEAST and time.perf_counter() - begin > seconds:
            break
        rng.shuffle(order)
        for i in order:
            start = time.perf_counter_ns()
            y = plans[i].plan.run(x)
            samples[i].append(time.perf_counter_ns() - start)
            _still(plans[i], y, "an output of the timed runs differs from the checked one")
    return [ns[1:] for ns in samples]


def _watches(plan: Plan) -> list[Callable[[], list[int]]]:
    """One for each run of steps on one backend."""
    runs = groupby(plan.steps, key=lambda step: step.kernel.backend)
    return [stopwatch(name, tuple(run), plan.threads) for name, run in runs]


def _still(each: Checked, y: Array, problem: str) -> None:
    if not np.array_equal(y, each.output):
        raise CheckFailed(f"{each.plan.graph.name}: {problem}")
