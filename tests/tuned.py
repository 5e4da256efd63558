"""What the tests of tuning share: a backend with rows of known speed, and a clock that reads their speed off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from refstack.backends import Step, backend
from refstack.benchmark import tuning
from refstack.benchmark.clock import Checked
from refstack.compression import compress
from refstack.graph import Graph
from refstack.kernels import Kernel
from refstack.models.builder import Builder
from refstack.models.zoo import draw

Spoil = Callable[[Step], None]
HONEST: Spoil = lambda step: None  # noqa: E731


def network() -> Graph:
    """Three convolutions, two of which are the same problem, and a linear layer."""
    net = Builder("tuned", (3, 8, 8)).conv("a", 8, 3, padding=1).batchnorm().relu()
    net.conv("b", 8, 3, padding=1).batchnorm().relu().conv("c", 8, 3, padding=1).batchnorm().relu()
    return compress(draw(net.globalavgpool().flatten().linear("fc", 10).graph()), "dense")


def rows(monkeypatch: pytest.MonkeyPatch, variants: dict[str, Spoil], op: str = "conv2d", **fields: object) -> None:
    """The numpy backend with these variants of a dense layer instead of its own row, each right but for its spoiler."""
    home = backend("numpy")
    (honest,) = (row for row in home.kernels() if (row.op, row.format) == (op, "dense"))

    def variant(name: str, spoil: Spoil) -> Kernel:
        def run(step: Step) -> None:
            honest.run(step)
            spoil(step)

        return replace(honest, variant=name, run=run, **fields)

    made = tuple(variant(name, spoil) for name, spoil in variants.items())
    others = tuple(row for row in home.kernels() if row.name != honest.name)
    monkeypatch.setattr(home, "kernels", lambda: (*made, *others))


def clock(
    monkeypatch: pytest.MonkeyPatch, speed: dict[str, int], whole: dict[str, int] | None = None
) -> list[list[str]]:
    """Steps take what their variant is said to (1, if nothing); whole networks too, unless told otherwise.

    Returns     the variants of each plan that was timed step by step, beside the default
    """
    timed: list[list[str]] = []

    def ns(step: Step, of: dict[str, int]) -> int:
        return of.get(step.kernel.variant, 1)

    def time_steps(plans: Sequence[Checked], x: np.ndarray, *limits: float) -> list[list[list[int]]]:
        timed.append([step.kernel.variant for step in plans[-1].plan.steps])
        return [[[ns(step, speed)] * 2 for step in each.plan.steps] for each in plans]

    def time_plans(plans: Sequence[Checked], x: np.ndarray, *limits: float) -> list[list[int]]:
        return [[sum(ns(step, whole or speed) for step in each.plan.steps)] * 3 for each in plans]

    monkeypatch.setattr(tuning, "time_steps", time_steps)
    monkeypatch.setattr(tuning, "time_plans", time_plans)
    return timed
