"""Which rows make a network fastest together, from the times of single steps.

    cost(choices) = sum of time(case, kernel) over the steps that planner.choose makes of them, reorders included

Layers interact through layouts alone, and the planner itself says which reorders a choice brings. What was not measured
counts as free, what was measured a few times counts with its best: the cheapest plan is measured next, until all of it
is known well. A row whose best is hopeless costs one measurement, those that compete get the others.
Source      Anderson, Gregg: Optimal DNN Primitive Selection with PBQP, CGO 2018 (cost of layers and of layouts between)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from refstack.backends import Step
from refstack.graph import Graph
from refstack.kernels import Case, Kernel, candidates
from refstack.planner import choose, weighted

Choices = Mapping[str, str]
"""Case word -> kernel name, of those that are not the default."""
Pair = tuple[str, str]
"""(case word, kernel name): what has a time."""
ENOUGH = 4
"""Measurements from which the median counts."""
MARGIN = 1.03
"""A row takes the place of the default only if it is this many times faster: less is what a measurement is off by."""
SWEEPS = 8  # of a descent; it ends by itself after two or three


@dataclass(eq=False)
class Search:
    """The rows to choose from, and what is known of them.

    options     case -> the backend's rows that can run it, the default first; only layers with weights choose, the
                others follow them
    samples     time of a step, one for each measurement, as a share of what the default plan took beside it
    left_out    why a row may not be chosen
    """

    graph: Graph
    batch: int
    rows: tuple[Kernel, ...]
    options: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[Pair, list[float]] = field(default_factory=dict)
    left_out: dict[Pair, str] = field(default_factory=dict)
    _pairs: dict[frozenset[Pair], list[Pair]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for draft in choose(self.graph, self.batch, self.rows, {})[0]:
            if weighted(draft.case):
                self.options[draft.case.word] = self._able(draft.case, draft.choice.kernel)

    def _able(self, case: Case, default: Kernel) -> list[str]:
        able, _ = candidates(case, self.rows)
        return [default.name, *(row.name for row in able if row.backend == default.backend and row is not default)]

    def pairs(self, choices: Choices) -> list[Pair]:
        """The steps of the plan that these choices give."""
        key = frozenset(choices.items())
        if key not in self._pairs:
            drafts, _, _ = choose(self.graph, self.batch, self.rows, choices)
            self._pairs[key] = [(draft.case.word, draft.choice.kernel.name) for draft in drafts]
        return self._pairs[key]

    def add(self, steps: Sequence[Step], ns: Sequence[float], default_ns: float) -> None:
        """One measurement of a plan: a sample for each of its pairs, the mean where several steps are the same."""
        found: dict[Pair, list[float]] = {}
        for step, each in zip(steps, ns, strict=True):
            found.setdefault((step.case.word, step.kernel.name), []).append(each / default_ns)
        for pair, same in found.items():
            self.samples.setdefault(pair, []).append(statistics.mean(same))

    def known(self, pairs: Iterable[Pair]) -> bool:
        """Whether all of them were measured often enough."""
        return all(len(self.samples.get(pair, ())) >= ENOUGH for pair in pairs)

    def cost(self, choices: Choices, hopeful: bool = True) -> float:
        """Time of the network. Not hopeful: what is not known well costs inf."""
        chosen = set(choices.items())
        return sum(self._price(pair, hopeful) * (MARGIN if pair in chosen else 1) for pair in self.pairs(choices))

    def _price(self, pair: Pair, hopeful: bool) -> float:
        if pair in self.left_out:
            return math.inf
        found = self.samples.get(pair, [])
        if len(found) >= ENOUGH:
            return statistics.median(found)
        return min(found, default=0.0) if hopeful else math.inf

    def cheapest(self, hopeful: bool = True) -> dict[str, str]:
        """The choices of the least cost: the best single changes to the default, and to every layer in one layout.

        Args        hopeful     to find what to measure next; not hopeful: what to choose, now that nothing more is
        """
        found = [self._descend(start, hopeful) for start in self._starts(hopeful)]
        return min(found, key=lambda choices: self.cost(choices, hopeful))

    def _starts(self, hopeful: bool) -> list[dict[str, str]]:
        """The default; then for each layout every layer's fastest row that reads it, if the default's does not."""
        reads = {row.name: row.layouts[0] for row in self.rows}
        starts: list[dict[str, str]] = [{}]
        for layout in dict.fromkeys(reads[name] for names in self.options.values() for name in names):
            start = {}
            for case, names in self.options.items():
                fits = [name for name in names if reads[name] == layout]
                if fits and names[0] not in fits:
                    start[case] = min(fits, key=lambda name, case=case: self._price((case, name), hopeful))  # type: ignore[misc]
            starts += [start] if start else []
        return starts

    def _descend(self, start: dict[str, str], hopeful: bool) -> dict[str, str]:
        best, least = start, self.cost(start, hopeful)
        for _ in range(SWEEPS):
            before = least
            for case, names in self.options.items():
                for name in names:
                    trial = {**best, case: name}
                    if name == names[0]:
                        del trial[case]
                    if trial != best and (cost := self.cost(trial, hopeful)) < least:
                        best, least = trial, cost
            if least == before:
                break
        return best
