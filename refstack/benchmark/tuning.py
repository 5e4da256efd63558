"""The tune verb: time the rows that could run each layer, inside whole networks, and keep the fastest for this machine.

    default plan -> [cheapest plan so far -> checked -> its steps timed beside the default's] .. -> both plans whole

A layer by itself, its weights warm in a cache, would flatter rows with large weights; so steps are timed in the order
of the network. Times of each measurement are scaled by what the default plan took beside it. The choice is kept only if
the network as a whole is faster with it.
Next: search.py, choices.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from refstack.backends import hold, rows
from refstack.benchmark import artifacts, choices, machine, request
from refstack.benchmark.choices import Found, Kept
from refstack.benchmark.clock import Checked, checked, time_plans, time_steps
from refstack.benchmark.report import Report
from refstack.benchmark.search import Choices, Pair, Search
from refstack.compare import check_plan
from refstack.compression.trained import under
from refstack.datasets import preprocess
from refstack.errors import CheckFailed
from refstack.formats import Array
from refstack.graph import Graph
from refstack.models import MODELS
from refstack.planner import Plan, plan
from refstack.reference import run

MOST = 16
"""Measurements of one network; four rows a layer take about eight."""
STEPS_ROUNDS, STEPS_S = 15, 0.25
"""Of one measurement: the least of its times counts for a step, since what disturbs can only add to it."""
WHOLE_ROUNDS, WHOLE_S = 100, 1.0
WORTH = 1.01
"""The gain of a whole network below which nothing is changed."""


@dataclass(frozen=True)
class Tuning:
    """One network's outcome.

    found       every case of its layers with weights       layers      case -> names of the layers
    default_ms, tuned_ms    medians of plan.run             gain        median of default / tuned, run by run
    dropped     what single layers promised and the whole network did not hold: case -> kernel
    """

    model: str
    technique: str
    backend: str
    threads: int
    batch: int
    found: Kept
    layers: dict[str, list[str]]
    default_ms: float
    tuned_ms: float
    gain: float
    dropped: dict[str, str]

    def records(self) -> Iterator[dict[str, Any]]:
        """A record for each case."""
        for case, each in self.found.items():
            yield {
                "network": f"{self.model} {self.technique}",
                "backend": self.backend,
                "threads": self.threads,
                "layers": self.layers[case],
                "case": case,
                "us": dict(each.times_us),
                "left_out": dict(each.left_out),
                "default": each.default,
                "winner": each.kernel,
                "gain": each.times_us[each.default] / each.times_us[each.kernel],
            }


def tune(
    models: Sequence[str] | str | None = None,
    techniques: Sequence[str] | str | None = None,
    backends: Sequence[str] | str | None = None,
    threads: Sequence[int] | int | None = None,
    batch: int = 1,
    one_shot: bool = False,
    seed: int = 0,
    report: Report | None = None,
) -> list[Tuning]:
    """Find the fastest row for each layer of these networks, and keep it: plans of this machine then use it.

    Args        as bench takes them; backends default to openmp, threads to 1
    Returns     an outcome for each combination
    Raises      UsageError, BackendUnavailable before anything runs; CheckFailed if a default row is wrong
    """
    report = report or Report()
    names = request.names("model", models, list(MODELS), paths=True)
    kinds = request.techniques(techniques, names)
    usable = request.usable_backends(["openmp"] if backends is None else backends, report)
    counts = request.thread_counts([1] if threads is None else threads, machine.threads_allowed(), report)
    request.whole("batch", batch)
    choices.keep(usable[0], counts[0], {})  # a file that cannot be written says so now, not after minutes
    report.begin(len(names) * len(kinds) * len(usable) * len(counts))
    outcomes = []
    for name, technique in product(names, kinds):
        whole = artifacts.source(name, seed)
        graph, _ = under(name, whole, technique, one_shot, seed)
        x = preprocess(artifacts.images(name, whole, batch, seed))
        for backend, count in product(usable, counts):
            hold(backend, count)
            title = f"{name} {technique}, {backend}, {count} thread{'s' * (count > 1)}"
            found = _Run(graph, x, backend, count, lambda text, of=title: report.advance(0, f"{of}: {text}"))
            outcomes.append(found.outcome(name, technique))
            choices.keep(backend, count, outcomes[-1].found)
            report.advance(1, title)
    return outcomes


class _Run:
    """One network on one backend with so many threads."""

    def __init__(self, graph: Graph, x: Array, backend: str, threads: int, progress: Callable[..., None]) -> None:
        self.graph, self.x, self.backend, self.threads, self.progress = graph, x, backend, threads, progress
        self.progress("check")
        self.oracle = run(graph, x.astype(np.float64))
        self.default = checked(self._plan({}), x, self.oracle)
        self.search = Search(graph, self.default.plan.part, rows((backend,)))
        self.default_ns: list[float] = []  # all its steps, in each measurement
        self.plans: dict[frozenset[Pair], Checked | None] = {frozenset(): self.default}

    def _plan(self, chosen: Choices) -> Plan:
        return plan(self.graph, len(self.x), (self.backend,), self.threads, chosen)

    def outcome(self, model: str, technique: str) -> Tuning:
        """Measure until the cheapest plan is known well, then hold it against the default."""
        best = self._explore()
        self.progress("whole network")
        default_ms, tuned_ms, gain = self._whole(self._checked(best) or self.default)
        better = gain > WORTH
        layers: dict[str, list[str]] = {case: [] for case in self.search.options}
        for step in self.default.plan.steps:
            if step.case.word in layers:
                layers[step.case.word].append(step.node.name)
        return Tuning(
            model, technique, self.backend, self.threads, len(self.x),
            {case: self._found(case, best if better else {}) for case in layers}, layers,
            default_ms, tuned_ms if better else default_ms, gain if better else 1.0, {} if better else best,
        )  # fmt: skip

    def _explore(self) -> dict[str, str]:
        """The cheapest choices, each of whose steps was measured often enough."""
        chosen: dict[str, str] = {}
        for turn in range(MOST):
            self.progress(f"measurement {turn + 1}")
            made = self._checked(chosen)
            if made is not None:
                self._measure(made)
            chosen = self.search.cheapest()
            if self.search.known(self.search.pairs(chosen)):
                return chosen
        return self.search.cheapest(hopeful=False)

    def _checked(self, chosen: Choices) -> Checked | None:
        """The plan, or None if it is wrong: the rows to blame are left out from now on.

        Raises      CheckFailed     the default's own rows are to blame
        """
        key = frozenset(chosen.items())
        if key not in self.plans:
            self.plans[key] = self._judged(chosen)
        return self.plans[key]

    def _judged(self, chosen: Choices) -> Checked | None:
        made = self._plan(chosen)
        verdict = check_plan(made, self.x, self.oracle)
        if verdict.passed:
            return Checked(made, verdict.output)
        blamed = {(layer.case, layer.kernel): str(layer) for layer in verdict.layers if not layer.passed}
        new = [pair for pair in chosen.items() if pair not in self.search.samples] or chosen.items()
        for pair, problem in (blamed or dict.fromkeys(new, verdict.problem)).items():
            if pair in self.search.pairs({}):
                raise CheckFailed(problem)
            self.search.left_out[pair] = problem
        return None

    def _measure(self, made: Checked) -> None:
        """One measurement of a plan's steps beside the default's."""
        plans = [self.default] if made is self.default else [self.default, made]
        taken = [[min(ns) for ns in steps] for steps in time_steps(plans, self.x, STEPS_ROUNDS, STEPS_S)]
        self.default_ns.append(sum(taken[0]))
        for each, least in zip(plans, taken, strict=True):
            self.search.add(each.plan.steps, least, self.default_ns[-1])

    def _whole(self, best: Checked) -> tuple[float, float, float]:
        """(ms of the default, ms of the best plan, median of their ratio run by run)."""
        plans = [self.default] if best is self.default else [self.default, best]
        samples = time_plans(plans, self.x, WHOLE_ROUNDS, WHOLE_S)
        default, tuned = samples[0], samples[-1]
        ratio = statistics.median(a / b for a, b in zip(default, tuned, strict=True))
        return statistics.median(default) / 1e6, statistics.median(tuned) / 1e6, ratio

    def _found(self, case: str, kept: Choices) -> Found:
        names, samples = self.search.options[case], self.search.samples
        unit = statistics.median(self.default_ns) / 1e3
        times = {name: statistics.median(samples[case, name]) * unit for name in names if (case, name) in samples}
        left_out = {name: why for name in names if (why := self.search.left_out.get((case, name)))}
        rounded = {name: float(f"{us:.4g}") for name, us in times.items()}
        return Found(kept.get(case, names[0]), names[0], rounded, left_out, machine.now())
