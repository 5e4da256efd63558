"""The search alone, on times given by hand: layouts and what lies between them, luck, and when it stops."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from tuned import network

from refstack.backends import backend
from refstack.benchmark.search import ENOUGH, Search
from refstack.graph import Graph
from refstack.kernels import Kernel
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.planner import plan

PLAIN = Kernel("conv2d", "dense", "numpy", "plain", None)
BLOCKED = Kernel("conv2d", "dense", "numpy", "blocked", None, layouts=("nchw16c", "nchw16c"))
CASES = ("conv2d.dense:n1c3h8w8_k8r3s3_st1pd1g1_relu", "conv2d.dense:n1c8h8w8_k8r3s3_st1pd1g1_relu")
REST = {"reference conv2d": 900.0}
"""The reference's own row is among the options."""


def search(*rows: Kernel, graph: Graph | None = None) -> Search:
    return Search(graph or network(), 1, (*rows, *backend("numpy").kernels()))


def measured(found: Search, times: Mapping[str, float], turns: int = 40) -> tuple[dict[str, str], int]:
    """Follow the search with a clock that never errs: its answer, and how many plans were measured."""
    chosen: dict[str, str] = {}
    for turn in range(turns):
        if turn:
            chosen = found.cheapest()
        if turn and found.known(found.pairs(chosen)):
            return chosen, turn
        for choices in ({}, chosen) if chosen else ({},):
            for pair in found.pairs(choices):
                variant = pair[1].rpartition(".")[2]
                word = f"{variant} {pair[0]}"
                cost = next((ns for name, ns in times.items() if word.startswith(name)), 1.0)
                found.samples.setdefault(pair, []).append(cost)
    raise AssertionError("the search does not end")


def test_a_layout_that_costs_more_than_it_gains_is_not_taken() -> None:
    found = search(PLAIN, BLOCKED)
    chosen, _ = measured(found, {"plain": 100, "blocked": 60, "reference reorder": 70, **REST})
    assert chosen == {}


def test_layers_change_their_layout_together() -> None:
    """One by one each would pay for two reorders; all of them pay for two."""
    found = search(PLAIN, BLOCKED)
    chosen, _ = measured(found, {"plain": 100, "blocked": 60, "reference reorder": 50, **REST})
    assert chosen == dict.fromkeys(CASES, BLOCKED.name)
    alone = {CASES[0]: BLOCKED.name}
    assert found.cost(alone) > found.cost({}) > found.cost(chosen)


def test_the_search_ends_and_measures_little() -> None:
    rows = [PLAIN, *(Kernel("conv2d", "dense", "numpy", f"other{i}", None) for i in range(5))]
    chosen, turns = measured(search(*rows), {"plain": 100, "other3": 50, "other": 500, **REST})
    assert set(chosen.values()) == {"conv2d.dense.numpy.other3"}
    assert turns <= 5 + ENOUGH + 1


def test_options_are_the_rows_of_the_defaults_backend() -> None:
    other = Kernel("conv2d", "dense", "elsewhere", "fast", None)
    refusing = Kernel("conv2d", "dense", "numpy", "refusing", None, needs=(lambda case: "not today",))
    found = search(PLAIN, other, refusing)
    assert found.options[CASES[0]] == [PLAIN.name, "conv2d.dense.numpy.reference"]
    assert not any(case.startswith(("globalavgpool", "reorder")) for case in found.options)


def test_one_lucky_measurement_wins_nothing() -> None:
    found = search(PLAIN)
    second = "conv2d.dense.numpy.reference"
    for pair in found.pairs({}):
        found.samples[pair] = [100.0] * ENOUGH
    for case in CASES:
        found.samples[case, second] = [10.0]
    assert found.cheapest() == dict.fromkeys(CASES, second), "it is worth another look"
    assert found.cheapest(hopeful=False) == {}, "but not to be chosen yet"
    for case in CASES:
        found.samples[case, second] += [120.0] * (ENOUGH - 1)
    assert found.cheapest() == {}


def test_a_row_that_is_left_out_costs_too_much() -> None:
    found = search(PLAIN)
    chosen = dict.fromkeys(CASES, "conv2d.dense.numpy.reference")
    assert found.cheapest() == {}, "all is free, so nothing is better"
    for pair in found.pairs({}):
        found.samples[pair] = [100.0] * ENOUGH
    assert found.cheapest() == chosen
    found.left_out[CASES[0], "conv2d.dense.numpy.reference"] = "wrong"
    assert math.isinf(found.cost(chosen))
    assert found.cheapest() == {CASES[1]: "conv2d.dense.numpy.reference"}


def test_steps_of_one_problem_are_one_sample() -> None:
    graph = network()
    found = Search(graph, 1, backend("numpy").kernels())
    steps = plan(graph, 1, "numpy").steps
    found.add(steps, [100.0 * (i + 1) for i in range(len(steps))], 1000.0)
    samples = {case: ns for (case, _), ns in found.samples.items()}
    assert samples[CASES[0]] == [pytest.approx(0.1)]
    assert samples[CASES[1]] == [pytest.approx(0.25)]


def test_branches_share_what_was_reordered() -> None:
    """The planner itself is asked for the steps, so a value that two layers read is reordered once."""
    net = Builder("branches", (16, 8, 8))
    x = net.relu().last
    left = net.at(x).conv("left", 16, 3, padding=1).last
    right = net.at(x).conv("right", 16, 3, padding=1).last
    graph = draw(net.add("add", left, right).globalavgpool().flatten().linear("fc", 4).graph())
    found = search(PLAIN, BLOCKED, graph=graph)
    case = next(iter(found.options))
    words = [word for word, _ in found.pairs({case: BLOCKED.name}) if word.startswith("reorder")]
    assert sum("nchw-nchw16c" in word for word in words) == 1
