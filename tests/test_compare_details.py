"""The corners of the contract that mutants found open: what every field says, and which outputs count."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import images, integers, small

from refstack import compare, ops
from refstack.backends import Step, backend, openmp
from refstack.compare import Check, RmsCheck, check, check_plan, check_step, reference_error, rms_check
from refstack.contract import SAMPLE, U, bound, textbook
from refstack.formats import Array, Dense
from refstack.graph import Node
from refstack.kernels import Reorder
from refstack.planner import Plan, plan
from refstack.reference import layer, run

DENSE = Node("y", ops.Linear(2), ("x",), Dense.encode(np.array([[1.5, 0, -2], [0, 0, 3]])), np.float32([0.5, 0]))
RELU = Node("y", ops.ReLU(), ("x",))
X = np.array([[1, 2, 0], [-1, 4, 8]], np.float32)

needs_compiler = pytest.mark.skipif(openmp.unavailable() is not None, reason=str(openmp.unavailable()))


def test_every_field_of_a_check() -> None:
    y = layer(RELU, X)
    assert check(RELU, (X,), y) == Check("y", "", "", 6, 0, 0.0, (0, 0), 1.0, 1.0)
    off = y + np.float32([[0, 0, 0], [0, 0, 1]])
    assert check(RELU, (X,), off, "k", "c") == Check("y", "k", "c", 6, 0, np.inf, (1, 2), 9.0, 8.0)
    words = "output is float32 (3, 2), wanted float64 (2, 2)"
    wrong = check(DENSE, (X,), np.zeros((3, 2), np.float32), "k", "c")
    assert wrong == Check("y", "k", "c", 0, 0, np.inf, problem=words)
    empty = check(RELU, (X[:0],), X[:0], "k", "c")
    assert empty == Check("y", "k", "c", 0, 0, 0.0, problem="the output is empty, nothing was compared")


def test_elements_that_are_not_compared_have_no_error() -> None:
    node = Node("y", ops.Linear(1), ("x",), Dense.encode(np.ones((1, 3))))
    x = np.array([[3e38, 3e38, -3e38], [1, 2, 3]], np.float32)
    assert check(node, (x,), np.array([[np.inf], [6]], np.float32)).worst == 0


def short_sums(rows: int = 16, images: int = 16) -> tuple[Node, Array]:
    """Sums of 50 products, with a bias."""
    rng = np.random.default_rng(3)
    weight, bias = Dense.encode(rng.standard_normal((rows, 50))), rng.standard_normal(rows).astype(np.float32)
    return Node("y", ops.Linear(rows), ("x",), weight, bias), rng.standard_normal((images, 50)).astype(np.float32)


def rms(node: Node, x: Array, y: Array, places: Array) -> float:
    """rms(|y - R| / S) at some outputs, by the formula."""
    r, s = layer(node, x.astype(np.float64)).ravel(), bound(node, (x,)).scale.ravel()
    return float(np.sqrt(np.mean(((y.ravel().astype(np.float64) - r) / s)[places] ** 2)))


def test_rms_takes_256_outputs_or_says_nothing() -> None:
    node, x = short_sums()
    y = layer(node, x)
    every, plain = np.arange(256), textbook(node, x, np.arange(256)).reshape(16, 16)
    ratio = rms(node, x, y, every) / rms(node, x, plain, every)
    assert rms_check(node, x, y) == RmsCheck(pytest.approx(ratio), 4.0, 256)
    assert rms_check(node, x, y, bound(node, (x,))).ratio == pytest.approx(ratio)
    assert rms_check(node, x[:-1], y[:-1]) == RmsCheck(0.0, 4.0, 0)


@pytest.mark.parametrize("images", [SAMPLE // 16, SAMPLE // 16 + 60])
def test_rms_samples_long_outputs_without_repeating(images: int) -> None:
    node, x = short_sums(images=images)
    y = layer(node, x)
    drawn = {seed: np.random.default_rng(seed).choice(y.size, SAMPLE, replace=False) for seed in (0, 1)}
    plain = textbook(node, x, np.arange(y.size))
    wanted = {seed: rms(node, x, y, at) / rms(node, x, plain, at) for seed, at in drawn.items()}
    assert rms_check(node, x, y) == RmsCheck(pytest.approx(wanted[0], rel=1e-9), 4.0, SAMPLE)
    assert rms_check(node, x, y, seed=1).ratio == pytest.approx(wanted[1], rel=1e-9)


@pytest.mark.parametrize("scale", [2.0**-20, 1.0])
def test_rms_leaves_out_empty_sums_and_sums_that_may_overflow(scale: float) -> None:
    node, x = short_sums(images=20)
    node = replace(node, bias=None)
    x = x * np.float32(scale)
    x[0], x[1] = 0, 3e38
    with np.errstate(over="ignore", invalid="ignore"):
        y = layer(node, x)
    found = rms_check(node, x, y)
    assert found.compared == 18 * 16
    assert found.passed


@pytest.mark.parametrize(("activation", "top"), [("relu", np.inf), ("relu6", 6)])
def test_rms_leaves_out_what_an_activation_clips(activation: str, top: float) -> None:
    node, x = short_sums(images=60)
    node = replace(node, op=replace(node.op, activation=activation))
    y = layer(node, x)
    r = layer(node, x.astype(np.float64))
    kept = np.flatnonzero((r > 0) & (r < top))
    assert 256 < len(kept) <= np.count_nonzero(r > 0)
    assert (len(kept) < np.count_nonzero(r > 0)) == (top == 6)
    assert rms_check(node, x, y).compared == len(kept)


def test_rms_floor_is_half_a_rounding() -> None:
    """The plain loop makes no error, so the unit is u / 8."""
    node = Node("y", ops.Linear(16), ("x",), Dense.encode(np.ones((16, 2))))
    y = np.full((32, 16), 2 * (1 + U))
    assert rms_check(node, np.ones((32, 2), np.float32), y).ratio == pytest.approx(8, rel=1e-6)


def test_reference_error_is_what_float32_costs() -> None:
    graph = integers(small())
    x = images(graph)
    oracle = run(graph, x.astype(np.float64))
    wanted = np.abs(run(graph, x).astype(np.float64) - oracle).max()
    assert 0 < reference_error(graph, x, oracle) == wanted
    assert reference_error(graph, x, oracle + 3) == pytest.approx(3, rel=1e-3)


@pytest.fixture(scope="module")
def made() -> Plan:
    """A network on blocked layouts, run once so that every step has its inputs."""
    graph = integers(small())
    found = plan(graph, 2, "openmp", threads=2)
    found.run(images(graph, whole=True))
    return found


@needs_compiler
def test_every_step_is_named_and_right(made: Plan) -> None:
    kinds = set()
    for step in made.steps:
        found = check_step(step, 2)
        assert found.passed, found
        assert (found.name, found.kernel, found.case) == (step.node.name, step.kernel.name, step.case.word)
        assert found.compared == np.prod(step.case.shape)
        kinds.add(type(step.node.op))
    assert {Reorder, ops.Conv2d} <= kinds


@needs_compiler
def test_a_plan_is_checked_with_its_own_threads(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def noted(step: Step, threads: int, *rest: Any) -> Check:
        asked.add(threads)
        return check_step(step, threads, *rest)

    monkeypatch.setattr(compare, "check_step", noted)
    found = check_plan(made, images(made.graph, whole=True))
    assert asked == {2}
    assert found.passed
    assert found.logit_error == 0


def after(step: Step, change: Callable[[Step], None], monkeypatch: pytest.MonkeyPatch) -> Check:
    """The check of a kernel that does something more when it is done."""
    found, lower = backend(step.kernel.backend), backend(step.kernel.backend).lower

    def planted(steps: tuple[Step, ...], threads: int) -> Callable[[], None]:
        run = lower(steps, threads)
        assert threads == 2
        return lambda: (run(), change(steps[0]))[0]

    monkeypatch.setattr(found, "lower", planted)
    return check_step(step, 2)


def blocked(made: Plan) -> Step:
    """A step whose output has lanes beyond its channels."""
    return next(s for s in made.steps if s.output.ndim == 5 and isinstance(s.node.op, ops.Conv2d))


@needs_compiler
def test_lanes_beyond_the_channels_must_be_zero(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    step = blocked(made)
    found = after(step, lambda s: s.output[..., -1].fill(1), monkeypatch)
    assert not found.passed
    assert found.worst == np.inf
    assert found.name == step.node.name
    assert re.fullmatch(r"the lanes that nchw\d+c adds are not zero", found.problem)


@needs_compiler
def test_output_that_is_not_written_shows(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    found = after(blocked(made), lambda s: s.output.view(np.uint8).fill(0xFF), monkeypatch)
    assert not found.passed
    assert np.isnan(found.got)


def test_nan_that_the_reference_has_too_is_right() -> None:
    graph = integers(small())
    made = plan(graph, 2, "numpy")
    made.run(images(graph))
    for step in made.steps[:3]:
        step.inputs[0].flat[0] = np.nan
        found = check_step(step, 1)
        assert found.passed, found
        assert np.isnan(step.output).any()


def test_a_bound_that_is_known_already_is_used() -> None:
    lenient = replace(bound(DENSE, (X,)), limit=np.full((2, 2), 10.0))
    assert check(DENSE, (X,), layer(DENSE, X) + 1, allowed=lenient).worst == pytest.approx(0.1)
