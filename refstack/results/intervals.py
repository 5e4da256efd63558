"""How sure a time is: bootstrap intervals of the median and of a ratio of medians.

Runs next to each other in time are alike, so what is drawn anew is whole blocks (one a round, rounds.py), never single
runs: B times as many blocks as there are, with replacement, and the median of all their samples.

    Efron (1979); Kunsch (1989) for blocks of what is not independent
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refstack.benchmark.rounds import Policy
from refstack.benchmark.rows import Row
from refstack.results.cells import device

Samples = NDArray[np.float64]
LEAST_BLOCKS = 3
"""With fewer nothing is known of the spread."""
DRAWS, PART = 2000, 250
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, and the limits between which `level` of the draws lie."""

    low: float
    mid: float
    high: float
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.mid:.3g} [{self.low:.3g}, {self.high:.3g}]"


def blocks(row: Row) -> list[Samples]:
    """The samples in ns, block by block; none if the row has none.

    A row that does not say how long its blocks were (`rounds`) is cut into what the policy makes them.
    """
    samples, lengths = np.asarray(row["samples_ns"], float), row.get("rounds")
    if lengths and sum(lengths) == len(samples):
        cuts = np.cumsum(lengths)[:-1]
    else:
        length_ns = 1e6 * (Policy.quick() if row["quick"] else Policy()).block_ms
        cuts = np.flatnonzero(np.diff(np.cumsum(samples) // length_ns)) + 1
    return [block for block in np.split(samples, cuts) if len(block)]


def clocked(row: Row) -> list[Samples]:
    """The blocks in units of the yardstick beside each: a slower clock makes both longer.

    None for a row without, or of a GPU, which has a clock of its own.
    """
    found, beside = blocks(row), row.get("yardstick_ns") or ()
    if device(row).get("kind") == "gpu":
        return []
    return [block / ns for block, ns in zip(found, beside, strict=True)] if len(found) == len(beside) else []


def latency(row: Row, level: float = LEVEL, seed: int = 0) -> Interval | None:
    """Median time of one call in ms; None if the row has less than LEAST_BLOCKS."""
    found = blocks(row)
    if len(found) < LEAST_BLOCKS:
        return None
    mid = float(np.median(np.concatenate(found)))
    return _interval(mid, quantiles(found, counts(len(found), np.random.default_rng(seed))), level, 1e-6)


def ratio(new: Row, base: Row, level: float = LEVEL, seed: int = 0) -> Interval | None:
    """Median of `new` over median of `base`: above 1 where new is slower; None if one has too few blocks.

    Rows of one run were timed in the same rounds, so that a slow round is drawn for both or for neither.
    """
    ours, theirs = blocks(new), blocks(base)
    if min(len(ours), len(theirs)) < LEAST_BLOCKS:
        return None
    rng = np.random.default_rng(seed)
    mid = float(np.median(np.concatenate(ours)) / np.median(np.concatenate(theirs)))
    together = same_run(new, base) and len(ours) == len(theirs)
    drawn = counts(len(ours), rng)
    above = quantiles(ours, drawn)
    below = quantiles(theirs, drawn if together else counts(len(theirs), rng))
    return _interval(mid, above / below, level)


def same_run(one: Row, other: Row) -> bool:
    """Whether both were timed in the same rounds: same network, and limits of the machine measured at one moment."""
    when = [(row["model"], row["env"].get("key"), row["env"].get("measured_utc")) for row in (one, other)]
    return when[0] == when[1] and when[0][-1] is not None and "rounds" in one and "rounds" in other


def counts(n: int, rng: np.random.Generator, draws: int = DRAWS) -> NDArray[np.int64]:
    """(draws, n): how often each of n blocks was drawn."""
    return rng.multinomial(n, np.full(n, 1 / n), draws)


def quantiles(found: list[Samples], drawn: NDArray[np.int64], q: float = 0.5) -> Samples:
    """(draws,): the q-quantile of all samples of the blocks that were drawn, each as often as it was drawn."""
    samples = np.concatenate(found)
    order = np.argsort(samples)
    block = np.repeat(np.arange(len(found)), [len(each) for each in found])[order]
    taken: list[Any] = []
    for start in range(0, len(drawn), PART):  # bounds the memory
        up_to = np.cumsum(drawn[start : start + PART, block], axis=1)
        taken.append((up_to < q * up_to[:, -1:]).sum(axis=1))
    return samples[order][np.concatenate(taken)]


def _interval(mid: float, draws: Samples, level: float, scale: float = 1.0) -> Interval:
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(min(low, mid)) * scale, mid * scale, float(max(high, mid)) * scale, level)
