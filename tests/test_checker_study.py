"""The study of the checker in short: right kernels pass, whatever their order; small faults are rejected at any depth.

The long form is tools/checker_study.py, its figures are in docs/checker-study.md.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import checker_study as study
import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "checker-study.md"


@cache
def right() -> list[study.Tally]:
    """Two hundred trials of every right kernel, most of them at depths that take little time."""
    return [study.study(study.RIGHT, 180, 1, (27, 288)), study.study(study.RIGHT, 20, 2, (1152, 4608))]


@cache
def wrong() -> study.Tally:
    """Two trials of every wrong kernel at each depth."""
    return study.study(study.WRONG, 2 * len(study.DEPTHS), 3)


@pytest.mark.parametrize("what", [*study.CHECKS, "any"])
@pytest.mark.parametrize("name", study.RIGHT)
def test_right_kernels_raise_no_alarm(name: str, what: str) -> None:
    trials = rejected = 0
    for tally in right():
        keys = [key for key in tally.trials if key[0] == name and key[2] == what]
        trials += sum(tally.trials[key] for key in keys)
        rejected += sum(tally.rejected[key] for key in keys)
    assert trials >= 200
    assert rejected == 0


def test_other_orders_keep_their_distance_from_the_limit() -> None:
    """T2's 4 is far from what orders of summation do: they differ, and none is twice as bad as the plain loop."""
    for name in study.RIGHT:
        ratios = [ratio for tally in right() for ratio in tally.figures[name, "T2"]]
        assert 0 < min(ratios) < max(ratios) < 2, name


@pytest.mark.parametrize("depth", study.DEPTHS)
@pytest.mark.parametrize("name", study.WRONG)
def test_wrong_kernels_are_rejected(name: str, depth: int) -> None:
    assert wrong().share(name, depth, "any") == 1


@pytest.mark.parametrize("depth", study.DEPTHS)
def test_what_each_check_is_there_for(depth: int) -> None:
    """Impulses see inputs that were rounded and numbers that were added, integers see weights; reals see neither
    always, which is why there are four checks."""
    for name in ("TF32 inputs", "fp16 inputs", "bf16 inputs", "+1e-5 everywhere"):
        assert wrong().share(name, depth, "T0b") == 1, name
    for name in ("fp16 accumulator", "one weight off by 2^-10", "2 % of weights dropped"):
        assert wrong().share(name, depth, "T0a") == 1, name
    assert wrong().share("one weight off by 2^-10", 4608, "T1") == 0
    assert wrong().share("+1e-5 everywhere", 4608, "T2") == 0


def test_half_precision_is_ten_bits() -> None:
    """`cut` rounds as NumPy's float16 does where both hold the exponent."""
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    x = x[np.abs(x) > 2.0**-13]
    np.testing.assert_array_equal(study.cut(10, x), x.astype(np.float16).astype(np.float32))
    assert study.cut(7, np.float32([1 + 2**-8, 1 + 3 * 2**-8])).tolist() == [1, 1 + 2**-6]


def test_right_products_are_products() -> None:
    """On integers all give the one answer, or the study would prove nothing about orders."""
    rng = np.random.default_rng(0)
    w, x = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((5, 37), (37, 6)))
    for name, product in study.RIGHT.items():
        np.testing.assert_array_equal(product(w, x), w @ x, name)
    reals = [rng.standard_normal(shape).astype(np.float32) for shape in ((8, 600), (600, 40))]
    answers = {product(*reals).tobytes() for product in study.RIGHT.values()}
    assert len(answers) == len(study.RIGHT), "two of them add in the same order"


def test_the_page_has_a_row_for_each() -> None:
    rows = [line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert set(study.RIGHT) | set(study.WRONG) <= set(rows)
