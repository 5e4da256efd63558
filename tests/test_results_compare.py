"""compare: two runs of one build are not told apart, a slower kernel is; families, machines and failures are minded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from benching import Notes
from results import ENV, row
from scipy import stats

from refstack.benchmark.rows import Row
from refstack.errors import UsageError
from refstack.results import compare
from refstack.results.comparing import ALPHA, holm


def run(seed: int, slower: float = 1.0, cells: int = 2) -> list[Row]:
    """A run of a build as this noise model has it: what was recorded on a virtual machine with neighbours.

    A clock for all (3 %), which the yardstick tells, a level of each process (2 %), blocks (1 %), single runs (a skewed
    3 %), and one block in six, in some runs every second, that is held up by others for a part of its runs.
    """
    rng = np.random.default_rng(seed)
    busy = rng.choice([1 / 6, 1 / 2], p=[0.8, 0.2])
    clock = math.exp(np.random.default_rng((seed, 1)).normal(0, 0.03))
    rows = []
    for cell in range(cells):
        level = 1e6 * clock * math.exp(rng.normal(0, 0.02)) * (slower if cell == 0 else 1.0)
        blocks = []
        for _ in range(10):
            block = level * math.exp(rng.normal(0, 0.01)) * (1 + rng.gamma(2, 0.015, 40))
            if rng.random() < busy:
                block[: rng.integers(1, 40)] *= 1 + rng.exponential(0.5)
            blocks.append(block)
        samples = [int(ns) for block in blocks for ns in block]
        p50 = float(np.median(samples)) * 1e-6
        beside = [int(1e5 * clock)] * 10
        timed = {"samples_ns": samples, "rounds": [40] * 10, "yardstick_ns": beside, "latency_p50_ms": p50}
        rows.append(row(f"net{cell}", **timed))
    return rows


def at_clock(rows: list[Row], times: float = 1.0, yardsticks: float = 1.0) -> list[Row]:
    """The same rows with all times, and with all yardsticks, so many times as long."""
    return [
        dict(
            each,
            samples_ns=[times * ns for ns in each["samples_ns"]],
            yardstick_ns=[int(yardsticks * ns) for ns in each["yardstick_ns"]],
        )
        for each in rows
    ]


def verdicts(base: list[Row], new: list[Row], **options: Any) -> list[str]:
    return [each.verdict for each in compare(base, new, **options)]


def test_one_build_is_never_worse_and_a_kernel_slowed_by_15_percent_is_found() -> None:
    """The planted faults: the slower kernel; and an interval of blocks alone, which would cry wolf."""
    found = naive = wrong = 0
    for seed in range(100):
        base = run(2 * seed)
        again = compare(base, run(2 * seed + 1))
        wrong += any(each.verdict in ("better", "worse") for each in again)
        naive += any(abs(math.log(each.ratio.mid)) > math.log1p(0.05) for each in again if each.ratio)
        slow = verdicts(base, run(2 * seed + 1, slower=1.15))
        found += slow[0] == "worse"
        wrong += slow[1] in ("better", "worse")
    assert found >= 95
    assert wrong <= 200 * ALPHA
    assert naive > 10, "the noise is no longer what fooled a plain threshold"


def test_a_slower_clock_is_no_slower_kernel() -> None:
    """The planted faults: a comparison by the wall's clock alone; and one by the yardstick alone."""
    base, slow = run(0), at_clock(run(0), 1.2, 1.2)
    assert {"worse", "better"}.isdisjoint(verdicts(base, slow) + verdicts(slow, base))
    unknown = [dict(each, yardstick_ns=[]) for each in slow]
    assert verdicts(base, unknown) == ["worse", "worse"]
    odd = at_clock(run(0), 1.0, 0.8)  # bound by memory, which the clock does not move
    assert {"worse", "better"}.isdisjoint(verdicts(base, odd) + verdicts(odd, base))
    assert verdicts(base, at_clock(run(0), 1.3, 1.1)) == ["worse", "worse"]
    notes = Notes()
    compare(base, slow, report=notes)
    assert notes.said == ["the clock was 20% slower in new: times are tested at one clock"]


def test_times_of_a_gpu_do_not_follow_the_processors_clock() -> None:
    gpu = {"device": {"name": "a card", "kind": "gpu"}}
    base, new = ([dict(each, env=ENV | gpu) for each in rows] for rows in (run(0), at_clock(run(0), 1.3, 1.3)))
    assert verdicts(base, new) == ["worse", "worse"]


def test_faster_is_better_and_several_runs_are_surer() -> None:
    assert verdicts(run(0, slower=1.3), run(1)) == ["better", "inconclusive"]
    many = [[each for seed in range(start, start + 8) for each in run(seed)] for start in (10, 20)]
    assert verdicts(*many) == ["same", "same"]
    slower = [each for seed in range(30, 38) for each in run(seed, slower=1.08)]
    assert verdicts(many[0], slower)[0] == "worse"
    assert {verdicts(run(seed), run(50 + seed, slower=1.08))[0] for seed in range(5)} > {"inconclusive"}


def test_a_small_change_is_no_regression_however_sure() -> None:
    many = [
        [each for seed in range(start, start + 9) for each in run(seed, slow)] for start, slow in ((0, 1), (20, 1.035))
    ]
    (first, _) = compare(*many)
    assert first.p is not None
    assert first.p < ALPHA
    assert (first.verdict, first.reason[:26]) == ("inconclusive", "differs, but not by more t")
    assert verdicts(*many, fail_above=0.01)[0] == "worse"


def test_only_some_slow_runs_prove_nothing() -> None:
    base = run(0)
    new = [
        dict(each, samples_ns=[3 * ns if i % 5 > 1 else ns for i, ns in enumerate(each["samples_ns"])])
        for each in run(1)
    ]
    assert verdicts(base, new) == ["inconclusive", "inconclusive"]


def test_more_cells_ask_for_more() -> None:
    """The planted fault: without Holm's correction the cell would count among 200 as it does among two."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    ours = stats.false_discovery_control([0.2], method="bh")
    assert holm([0.2]) == pytest.approx(ours)
    alone, among = compare(run(3), run(4, 1.1))[0], compare(run(3, cells=60), run(4, 1.1, cells=60))[0]
    assert alone.p is not None
    assert among.p is not None
    assert among.p > 20 * alone.p


def test_cells_without_times() -> None:
    ok, failed, skipped = run(0, cells=1), [row("net0", ms=None)], [row("net0", ms=None, status="skipped")]
    (first,) = compare(ok, failed)
    assert (first.verdict, first.reason, first.p) == ("worse", "base ok, new failed: a reason", None)
    assert verdicts(failed, ok) == verdicts(ok, skipped) == verdicts(failed, failed) == ["inconclusive"]
    short = [dict(ok[0], samples_ns=ok[0]["samples_ns"][:80], rounds=[40, 40])]
    (first,) = compare(ok, short)
    assert (first.verdict, first.reason) == ("inconclusive", "fewer than 3 blocks of samples")


def test_a_machine_that_others_held_up_all_along_proves_nothing() -> None:
    """The planted fault: all runs but the fastest twice as slow, in every block; and the same as the load tells it."""
    base, new = run(0), []
    for each in run(1):
        samples = [ns if i % 20 == 0 else 2 * ns for i, ns in enumerate(each["samples_ns"])]
        new.append(dict(each, samples_ns=samples))
    assert verdicts(base, new) == ["inconclusive", "inconclusive"]
    busy = [dict(each, env=ENV | {"load_average": [3.1, 1, 1]}) for each in run(1, slower=1.5)]
    (first, _) = compare(base, busy)
    assert first.reason == "the machine was busy: load average 3.1 on 2 processors"
    assert verdicts(base, run(1, slower=1.5))[0] == "worse"


def test_other_machines_are_not_judged_unless_asked() -> None:
    base, notes = run(0), Notes()
    away = [dict(each, env=ENV | {"cpu": "another", "host": "there"}) for each in run(1, 1.5)]
    found = compare(base, away, report=notes)
    assert [each.verdict for each in found] == ["inconclusive"] * 2
    assert found[0].reason == "other machines; --across-machines judges all the same"
    assert notes.said[0].startswith("warning: more than one machine (a processor, another)")
    assert verdicts(base, away, across_machines=True)[0] == "worse"
    both = away + run(1)
    assert verdicts(base, both, report=notes)[:2] == ["inconclusive"] * 2
    assert [each.reason for each in compare(base, both)][2:] == ["noise is as large as the difference"] * 2


def test_what_differs_beside_the_code_is_told() -> None:
    notes = Notes()
    new = [
        dict(each, env=ENV | {"key": "new", "compiler": "clang"}, artifact_sha256="x", quick=False) for each in run(1)
    ]
    compare([*run(0), row("other")], new, report=notes)
    assert notes.said == [
        "compiler: None in base, clang in new",
        "other weights on both sides: net0 dense openmp 1t, net1 dense openmp 1t",
        "cells in both: 2; only in base: 1, only in new: 0",
    ]
    old = [dict(each, env=ENV | {"key": "old"}) for each in run(2, slower=3)]
    assert verdicts(run(0), [*old, *run(1)]) == verdicts(run(0), run(1)), "the build measured last counts"


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="no cell is in both"):
        compare(run(0), [row("other")])
    for margin in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="--fail-above: got"):
            compare(run(0), run(1), fail_above=margin)
