"""Every metamorphic relation on every row that it says something about, and for each a fault that no other one sees."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from calls import ROWS, prepare
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from relations import RELATIONS, applies, on_filters, violation, with_op
from sides import Inputs, Prepared, Runner

from refstack import ops
from refstack.formats import INTEGER, Array, Csr
from refstack.graph import Node
from refstack.kernels import Kernel
from refstack.reference import layer
from refstack.reference.window import windows
from refstack.verification.cases import Problem, Seeded
from refstack.verification.fills import inputs_of, is_exact
from refstack.verification.harness import draw, real_case

PAIRS = [(name, row) for name in RELATIONS for row in ROWS if applies(name, row.op, row.format)]


def problem_of(row: Kernel, seed: int, name: str, most: float = np.inf) -> Problem:
    """A drawn problem for a relation: integers or, if the seed is odd, real numbers; at most so many numbers."""
    word = "normal" if seed % 2 and row.format not in INTEGER else "integer"
    for attempt in range(100):
        problem = draw(row, Seeded(seed, attempt, zlib.crc32(f"{name} {row.name}".encode())), word)
        assert problem is not None, f"{row.name} takes no drawn problem"
        images = len(problem.case.inputs[0]) == 4 or name != "transposed"
        if images and math.prod(problem.case.inputs[0]) + math.prod(problem.case.shape) <= most:
            return problem
    raise AssertionError(f"{row.name}: no drawn problem suits {name}")


@pytest.mark.parametrize(("name", "row"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_relation(name: str, row: Kernel) -> None:
    """A fifteenth of the profile's examples for each of the pairs: they are many."""
    compared: list[int] = []

    @settings(max_examples=max(2, settings().max_examples // 15), phases=(Phase.reuse, Phase.generate))
    @given(st.integers(0, 2**31))
    def check(seed: int) -> None:
        problem = problem_of(row, seed, name)
        node, _ = real_case(problem)
        run = Runner(partial(prepare, row), is_exact(problem))
        found, count = violation(name, run, node, inputs_of(problem), inputs_of(problem, change=1), seed)
        assert not found, f"{row.name} on {problem}: {found}"
        compared.append(count)

    check()
    assert sum(compared) > 0, f"{name} said nothing about {row.name}"


Fault = Callable[..., Array]


def right(node: Node, *x: Array) -> Array:
    return layer(node, *x)


def of_convolutions(fault: Fault) -> Fault:
    """Other layers are right."""
    return lambda node, *x: (fault if isinstance(node.op, ops.Conv2d) else right)(node, *x)


def overflowing(node: Node, *x: Array) -> Array:
    """Sums end at 2**26."""
    return right(node, *x).clip(-(2.0**26), 2.0**26)


def without_winner(node: Node, *x: Array) -> Array:
    """The largest filter of each pixel is lost."""
    y = right(node, *x)
    return np.where(np.abs(y) == np.abs(y).max(axis=1, keepdims=True), np.float32(0), y)


def first_image_in_all(node: Node, *x: Array) -> Array:
    """The accumulator is not cleared between images."""
    y = right(node, *x)
    y[1:] += y[:1]
    return y


def tail_of_filters_lost(node: Node, *x: Array) -> Array:
    """Filters are taken in fours."""
    y = right(node, *x)
    y[:, y.shape[1] // 4 * 4 :] = 0
    return y


def tail_of_channels_lost(node: Node, *x: Array) -> Array:
    """Channels are taken in fours."""
    seen = x[0].copy()
    seen[:, seen.shape[1] // 4 * 4 :] = 0
    return right(node, seen)


@of_convolutions
def first_pixel_lost(node: Node, *x: Array) -> Array:
    y = right(node, *x)
    y[:, :, 0, 0] = 0
    return y


@of_convolutions
def edges_repeated(node: Node, *x: Array) -> Array:
    """Padding repeats the edge."""
    top, left, bottom, right_ = node.op.padding  # type: ignore[attr-defined]
    framed = np.pad(x[0], ((0, 0), (0, 0), (top, bottom), (left, right_)), mode="edge")
    return right(with_op(node, padding=(0, 0, 0, 0)), framed)


@of_convolutions
def last_tap_lost(node: Node, *x: Array) -> Array:
    """The filter's last tap is not reached (unless it is the only one)."""

    def change(w: Array) -> Array:
        w = w.copy()
        if w.shape[2:] != (1, 1):
            w[:, :, -1, -1] = 0
        return w

    return right(on_filters(node, change), *x)


def twice_if(condition: Callable[[Any], bool]) -> Fault:
    """The sum is added two times on some path."""
    return lambda node, *x: right(node, *x) * np.float32(1 + condition(node.op))


def single_entries_lost(node: Node, *x: Array) -> Array:
    """csr rows with one entry are skipped."""
    y = right(node, *x)
    if isinstance(node.weight, Csr):
        y[:, np.count_nonzero(node.weight.decode(), axis=1) == 1] = 0
    return y


def on_conv(change: Callable[[Array], Array]) -> Fault:
    """A convolution with changed filters."""
    return of_convolutions(lambda node, *x: right(on_filters(node, change), *x))


def last_pixel_ignored(node: Node, *x: Array) -> Array:
    """Max-pool without the last tap of its window."""
    op = node.op
    r, s = op.kernel  # type: ignore[attr-defined]
    least = np.iinfo(x[0].dtype).min if x[0].dtype == np.int8 else -np.inf
    taps = windows(x[0], op, least)
    return taps.reshape(*taps.shape[:4], -1)[..., : max(1, r * s - 1)].max(axis=-1)


def one_too_many(node: Node, *x: Array) -> Array:
    """A softmax that divides by one more."""
    most = x[0].max(axis=1, keepdims=True)
    e = np.exp(x[0] - most)
    with np.errstate(over="ignore"):
        return e / (np.exp(-most) + e.sum(axis=1, keepdims=True))


def remembering(fault: Fault) -> Callable[[Node, Inputs], Prepared]:
    """A kernel whose buffers stay at their addresses, which it takes for the same inputs."""

    def prepare(node: Node, inputs: Inputs) -> Prepared:
        answers: list[Array] = []

        def call(*x: Array) -> Array:
            answers.append(fault(node, *x))
            return answers[0]

        return call

    return prepare


def forgetting(fault: Fault) -> Callable[[Node, Inputs], Prepared]:
    return lambda node, inputs: partial(fault, node)


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "scaled": (overflowing, "conv2d", "dense"),
    "additive": (without_winner, "conv2d", "dense"),
    "batched": (first_image_in_all, "conv2d", "dense"),
    "filters": (tail_of_filters_lost, "linear", "dense"),
    "channels": (tail_of_channels_lost, "linear", "dense"),
    "lanes": (tail_of_filters_lost, "batchnorm", "dense"),
    "translated": (first_pixel_lost, "conv2d", "dense"),
    "padded": (edges_repeated, "conv2d", "dense"),
    "ringed": (last_tap_lost, "conv2d", "dense"),
    "spread": (twice_if(lambda op: getattr(op, "dilation", (1, 1)) != (1, 1)), "conv2d", "dense"),
    "strided": (twice_if(lambda op: getattr(op, "stride", (1, 1)) != (1, 1)), "conv2d", "dense"),
    "grouped": (twice_if(lambda op: getattr(op, "groups", 1) > 1), "conv2d", "dense"),
    "unfolded": (on_conv(lambda w: w[:, :, ::-1, ::-1]), "conv2d", "dense"),
    "pointwise": (twice_if(lambda op: isinstance(op, ops.Linear)), "linear", "dense"),
    "decoded": (single_entries_lost, "conv2d", "csr"),
    "transposed": (on_conv(lambda w: w[:, :, :, ::-1]), "conv2d", "dense"),
    "idempotent": (twice_if(lambda op: True), "relu", "float32"),
    "composed": (last_pixel_ignored, "maxpool", "float32"),
    "shifted": (one_too_many, "softmax", "float32"),
    "repeated": (right, "conv2d", "dense"),
}
"""A fault for each relation: it must be seen by that one and by no other, save `unfolded`, whose other side is another
kind of layer: it sees nearly everything that a convolution alone does wrong."""


@pytest.mark.parametrize("name", RELATIONS)
def test_planted_fault_is_seen_by_its_relation_alone(name: str) -> None:
    fault, op, format = FAULTS[name]
    row = next(row for row in ROWS if (row.op, row.format, row.backend) == (op, format, "numpy"))
    seen = set()
    for each in (each for each in RELATIONS if applies(each, op, format)):
        for seed in range(0, 60, 1 if op == "softmax" else 2):
            problem = problem_of(row, seed, each, most=2000)
            if getattr(problem.case.op, "groups", 1) > 1:
                continue
            node, _ = real_case(problem)
            run = Runner((remembering if name == "repeated" else forgetting)(fault), is_exact(problem))
            if violation(each, run, node, inputs_of(problem), inputs_of(problem, change=1), seed)[0]:
                seen.add(each)
                break
    assert seen - {"unfolded"} == {name} - {"unfolded"}
    assert name in seen


def test_every_relation_is_tested_on_every_row() -> None:
    """All rows of the registry, each by at least two relations; every op that has sums by the relations of sums."""
    tested = {row.name: [name for name, each in PAIRS if each.name == row.name] for row in ROWS}
    assert {name for name, _ in PAIRS} == set(RELATIONS) == set(FAULTS)
    assert all(len(names) >= 2 for names in tested.values())
    assert all("unfolded" in names for row, names in tested.items() if row.startswith("conv2d"))


def test_nan_never_agrees() -> None:
    """A kernel that gives NaN violates what it takes part in."""
    node = Node("y", ops.ReLU(), ("x",))
    x = (np.ones((1, 3), np.float32),)
    run = Runner(forgetting(lambda node, *x: np.full_like(x[0], np.nan)), exact=False)
    assert violation("idempotent", run, node, x, x)[0]
