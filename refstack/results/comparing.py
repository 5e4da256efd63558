"""Better, worse, same or inconclusive: one build's results held against another's, cell by cell.

    log ratio of the lower quartile     +-      blocks of each run (bootstrap), and RUNS from run to run
    worse       above 1, at ALPHA over all cells together (Holm), and by more than fail_above; the median, too; and by
                half as much by the wall's clock
    better      below 1, as surely and by as much
    same        the 90 % interval of the median's ratio lies within fail_above (two one-sided tests)

The quartile, since a busy machine slows some of the runs and a slower kernel all of them: from run to run of one build
it moves half as much as the median. Most of that is the processor's clock, by 12 % within an hour on a shared machine:
what is tested are times in units of the yardstick that was read beside them. RUNS is what remains: other addresses,
another minute, which no block of one run tells (tools/compare_study.py measures it). Where the quartile lies further
above the fastest runs than HELD_UP, all that lies between may be others' doing, and counts instead. With several runs
on a side (`refstack merge`) what they differ by counts if it is more, and their mean is surer.

    Holm (1979); Schuirmann (1987); Welch (1947)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refstack.benchmark.report import Report
from refstack.benchmark.rows import Row
from refstack.errors import UsageError
from refstack.results.cells import device, key, machine, title
from refstack.results.intervals import LEAST_BLOCKS, Interval, Samples, blocks, clocked, counts, quantiles

FAIL_ABOVE = 0.05
RUNS = 0.02
"""Standard deviation of the logarithm of a time, from run to run of one build."""
ALPHA = 0.01
"""Chance of a wrong better or worse in a whole comparison."""
MEDIAN, QUARTILE, FASTEST = 0.5, 0.25, 0.02
DRAWS = 400
"""For a standard deviation fewer will do than for limits of an interval."""
HELD_UP = 0.1
BUSY = 1.5
"""Running processes for each processor before a run, above which others held it up; a run before this one makes 1."""
ENVIRONMENT = ("governor", "os", "python", "blas", "libraries", "compiler", "compiler_flags")
"""What is told if it differs: it is part of what is compared."""


@dataclass(frozen=True)
class Comparison:
    """One cell. `ratio` is of medians, new over base, above 1 slower, with its 95 % interval. `p` is Holm's.

    Both are at one clock of the processor if the rows tell it.
    """

    model: str
    technique: str
    backend: str
    threads: int
    batch: int
    base_ms: float | None
    new_ms: float | None
    ratio: Interval | None
    p: float | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class _Estimate:
    """Logarithm of a ratio, its standard error, degrees of freedom."""

    log: float
    error: float
    freedom: float

    @property
    def p(self) -> float:
        """Two-sided, of no difference."""
        from scipy import stats  # a second to import

        return float(2 * stats.t.sf(abs(self.log) / self.error, self.freedom))

    def interval(self, level: float) -> Interval:
        """Of the ratio itself."""
        from scipy import stats

        wide = self.error * float(stats.t.ppf((1 + level) / 2, self.freedom))
        return Interval(math.exp(self.log - wide), math.exp(self.log), math.exp(self.log + wide), level)


def compare(
    base: Sequence[Row],
    new: Sequence[Row],
    fail_above: float = FAIL_ABOVE,
    across_machines: bool = False,
    report: Report | None = None,
) -> list[Comparison]:
    """Judge every cell that both have; of each side the build that it measured last.

    Args        fail_above          smallest change that counts, 0.05 for 5 %
                across_machines     judge cells that only other machines have measured, too
                report              is told what differs beside the code, and which cells only one side has
    Raises      UsageError          they have no cell in common
    """
    if not 0 < fail_above < math.inf:
        raise UsageError(f"--fail-above: got {fail_above:g}, wanted more than 0, for example 5%")
    report = report or Report()
    ours, theirs = _sides(new), _sides(base)
    pairs = [(_partner(cell, theirs), runs) for cell, runs in ours.items()]
    matched = [(before, after) for before, after in pairs if before]
    if not matched:
        raise UsageError("compare: no cell is in both; wanted the same model, technique, backend, threads and batch")
    _tell(matched, len(theirs), len(ours), report)
    judged = [_Pair(before, after, across_machines) for before, after in matched]
    adjusted = iter(holm([pair.estimates[-1][1].p for pair in judged if pair.estimates]))
    return [pair.verdict(next(adjusted) if pair.estimates else None, fail_above) for pair in judged]


def holm(values: Sequence[float]) -> list[float]:
    """p-values of one family, such that any below 5 % is wrong in at most 5 % of families."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found, least = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[i]))
        found[i] = least
    return found


class _Pair:
    """The runs of one cell on both sides."""

    def __init__(self, base: list[Row], new: list[Row], across: bool) -> None:
        self.base, self.new = base, new
        self.reason = self._unjudged(across)
        known = all(map(clocked, (*base, *new)))
        cuts = () if self.reason else (blocks, clocked) if known else (blocks,)
        self.estimates = [[_estimate(base, new, q, cut) for q in (MEDIAN, QUARTILE)] for cut in cuts]

    def _unjudged(self, across: bool) -> str:
        """Why times say nothing here, if so."""
        if not across and machine(self.base[-1]) != machine(self.new[-1]):
            return "other machines; --across-machines judges all the same"
        if any(row["status"] != "ok" for row in (self.base[-1], self.new[-1])):
            return f"base {self.base[-1]['status']}, new {self.new[-1]['status']}"
        for row in (*self.base, *self.new):
            load, processors = row["env"].get("load_average") or [0.0], row["env"].get("threads_allowed") or 1
            if load[0] > BUSY * processors:
                return f"the machine was busy: load average {load[0]:g} on {processors} processors"
        if min(len(blocks(row)) for row in (*self.base, *self.new)) < LEAST_BLOCKS:
            return f"fewer than {LEAST_BLOCKS} blocks of samples"
        return ""

    def verdict(self, p: float | None, margin: float) -> Comparison:
        """With Holm's p."""
        word, reason = self._failures() if p is None else self._judged(p, math.log1p(margin))
        last, first = self.new[-1], self.base[-1]
        return Comparison(
            last["model"], last["technique"], last["backend"], last["threads"], last["batch"],
            first["latency_p50_ms"], last["latency_p50_ms"],
            self.estimates[-1][0].interval(0.95) if self.estimates else None, p, word, reason,
        )  # fmt: skip

    def _failures(self) -> tuple[str, str]:
        """A cell that no longer runs is worse."""
        worse = self.reason in ("base ok, new failed", "base ok, new timeout")
        reason = f"{self.reason}: {self.new[-1]['status_reason']}" if worse else self.reason
        return ("worse" if worse else "inconclusive"), reason

    def _judged(self, p: float, margin: float) -> tuple[str, str]:
        wall, tested = self.estimates[0], self.estimates[-1]
        logs = [*(each.log for each in tested), *(2 * each.log for each in wall)]
        effect = min(logs, key=abs) if min(logs) > 0 or max(logs) < 0 else 0.0
        if p < ALPHA and abs(effect) > margin:
            return ("worse" if effect > 0 else "better"), ""
        within = tested[0].interval(0.9)
        if -margin < math.log(within.low) and math.log(within.high) < margin:
            return "same", ""
        if p < ALPHA:
            return "inconclusive", f"differs, but not by more than {math.expm1(margin):.0%} in both median and quartile"
        return "inconclusive", "noise is as large as the difference"


def _sides(rows: Sequence[Row]) -> dict[Any, list[Row]]:
    """Runs by cell and machine: those of the build that was measured last, and of these the ones that are ok."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault((key(row), machine(row)), []).append(row)
    sides = {}
    for cell, runs in found.items():
        build = [row for row in runs if row["env"].get("key") == runs[-1]["env"].get("key")]
        sides[cell] = [row for row in build if row["status"] == "ok"] or build[-1:]
    return sides


def _partner(cell: Any, sides: dict[Any, list[Row]]) -> list[Row]:
    """The same cell on the same machine, else on the first machine that has it."""
    return sides.get(cell) or next((runs for (name, _), runs in sides.items() if name == cell[0]), [])


def _estimate(base: list[Row], new: list[Row], q: float, cut: Callable[[Row], list[Samples]]) -> _Estimate:
    """Mean of the runs' log quantiles; variances of blocks and of runs; Welch's degrees of freedom.

    Args        cut     blocks of a row: in ns, or at one clock
    """
    rng = np.random.default_rng(0)
    means, variances, freedoms = [], [], []
    for runs in (new, base):
        parts = [cut(row) for row in runs]
        logs, fastest = np.log([np.quantile(np.concatenate(part), (q, FASTEST)) for part in parts]).T
        means.append(float(logs.mean()))
        above = logs - fastest
        expected = float((np.where(above > HELD_UP, above, RUNS) ** 2).mean())
        apart = float(np.var(logs, ddof=1)) if len(logs) > 1 else 0.0
        variances.append(max(expected, apart) / len(logs))
        freedoms.append(math.inf)
        for part in parts:
            drawn = np.log(quantiles(part, counts(len(part), rng, DRAWS), q))
            variances.append(float(np.var(drawn)) / len(logs) ** 2)
            freedoms.append(len(part) - 1)
    total = sum(variances)
    welch = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return _Estimate(means[0] - means[1], math.sqrt(total), total**2 / welch if welch else math.inf)


def _tell(pairs: list[tuple[list[Row], list[Row]]], bases: int, news: int, report: Report) -> None:
    """What a reader should know beside the verdicts."""
    if len({machine(row) for pair in pairs for runs in pair for row in runs}) > 1:
        names = dict.fromkeys(str(runs[-1]["env"].get("cpu")) for pair in pairs for runs in pair)
        report.note(f"warning: more than one machine ({', '.join(names)}): times are of machines as well as of builds")
    for name in ENVIRONMENT:
        values = [[pair[side][-1]["env"].get(name) for pair in pairs] for side in (0, 1)]
        if values[0] != values[1]:
            i = next(i for i, (one, other) in enumerate(zip(*values, strict=True)) if one != other)
            report.note(f"{name}: {values[0][i]} in base, {values[1][i]} in new")
    clocks = [[ns for pair in pairs for row in pair[side] for ns in row.get("yardstick_ns") or ()] for side in (0, 1)]
    if all(clocks) and abs(slower := float(np.median(clocks[1]) / np.median(clocks[0])) - 1) > RUNS:
        word = "slower" if slower > 0 else "faster"
        report.note(f"the clock was {abs(slower):.0%} {word} in new: times are tested at one clock")
    other = [title(after[-1]) for before, after in pairs if _weights(before) != _weights(after)]
    if other:
        report.note(f"other weights on both sides: {', '.join(other)}")
    if any(row["quick"] for pair in pairs for runs in pair for row in runs):
        report.note("quick rows have few samples: most differences stay inconclusive")
    if bases > len(pairs) or news > len(pairs):
        report.note(
            f"cells in both: {len(pairs)}; only in base: {bases - len(pairs)}, only in new: {news - len(pairs)}"
        )


def _weights(runs: list[Row]) -> Any:
    return runs[-1].get("artifact_sha256"), device(runs[-1]).get("driver")
