"""Where a plan's time goes: every step timed by itself, in order, beside what the machine could do at best.

    flops = 2 * stored weights that are not 0 * pixels of the output        bytes = inputs + output + packed weights
    roof  = max(flops / FMA peak, bytes / bandwidth)                        of_roof = roof / time

Bandwidth is that of reading as many bytes as the plan holds, again and again: a network of 40 MB that a last cache
keeps has that cache's, a larger one memory's. A step that reads what another has just left in a nearer cache can be
faster than its roof, and so can Winograd's, which multiplies less; one whose zeros are multiplied (dense, ternary)
does more than its flops.
Source      Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from refstack.backends import Step, hold, roof
from refstack.benchmark import artifacts, choices, machine, request
from refstack.benchmark.clock import checked, time_steps
from refstack.benchmark.machine import Facts
from refstack.benchmark.report import Report
from refstack.compression.trained import under
from refstack.datasets import preprocess
from refstack.errors import CheckFailed
from refstack.formats import Array
from refstack.models import MODELS
from refstack.ops import Conv2d, Linear
from refstack.planner import Plan, plan
from refstack.verification import refused


@dataclass(frozen=True)
class StepProfile:
    """One step of a plan.

    ns      median over the rounds          share   of the sum over all steps
    """

    node: str
    kernel: str
    case: str
    ns: float
    share: float
    flops: int
    bytes: int

    def against(self, limits: Mapping[str, Any]) -> Facts:
        """The step beside a machine's limits (backends.roofs.measure): rates, which limit is nearer and how near."""
        compute, memory = self.flops / limits["flops"], self.bytes / limits["read_bytes_per_s"]
        return {
            "node": self.node,
            "kernel": self.kernel,
            "case": self.case,
            "us": self.ns / 1e3,
            "percent": 100 * self.share,
            "gflop_per_s": self.flops / self.ns,
            "gb_per_s": self.bytes / self.ns,
            "limit": "compute" if compute > memory else "memory",
            "percent_of_roof": 100e9 * max(compute, memory) / self.ns,
        }


def profile(made: Plan, x: Array, rounds: int = 50) -> list[StepProfile]:
    """Time each step of a plan in a call of its own.

    Args        x       float32 (batch, c, h, w)
    Raises      CheckFailed     a step is wrong, a kernel has not passed `verify`, or the steps one by one do not give
                                the plan's output
    """
    if reasons := refused(step.kernel.name for step in made.steps):
        raise CheckFailed("; ".join(reasons.values()))
    medians = [statistics.median(ns) for ns in time_steps([checked(made, x)], x, rounds)[0]]
    whole = sum(medians)
    times = len(made.parts)
    return [
        StepProfile(
            step.node.name, step.kernel.name, step.case.word, ns, ns / whole, times * _flops(step), times * _bytes(step)
        )
        for step, ns in zip(made.steps, medians, strict=True)
    ]


def networks(
    models: Sequence[str] | None,
    techniques: Sequence[str] | None,
    backends: Sequence[str],
    threads: Sequence[int],
    batch: int = 1,
    one_shot: bool = False,
    seed: int = 0,
    tuned: bool = True,
) -> Iterator[tuple[str, Mapping[str, Any], list[StepProfile]]]:
    """Profiles of every combination, as `bench` takes them, each with a title and the machine's limits.

    Raises      UsageError, BackendUnavailable before anything runs; CheckFailed
    """
    report = Report()
    names = request.names("model", models, list(MODELS), paths=True)
    kinds = request.techniques(techniques, names)
    usable = request.usable_backends(backends, report)
    counts = request.thread_counts(threads, machine.threads_allowed(), report)
    for name, technique in product(names, kinds):
        whole = artifacts.source(name, seed)
        graph, _ = under(name, whole, technique, one_shot, seed)
        x = preprocess(artifacts.images(name, whole, request.whole("batch", batch), seed))
        for used, count in product(usable, counts):
            hold(used, count)
            kernels = choices.tuned(used, count) if tuned else {}
            made = plan(graph, batch, (used,), count, kernels)
            limits = roof(used, count, made.planned_bytes)
            yield f"{name} {technique}, {used}, {count} thread{'s' * (count > 1)}", limits, profile(made, x)


def record(found: Iterable[tuple[str, Mapping[str, Any], list[StepProfile]]]) -> Facts:
    """What `networks` gave, as JSON that says what it is and where it was measured; `refstack report` draws it."""
    profiles = [
        {"network": title, "roof": dict(limits), "steps": [step.against(limits) for step in steps]}
        for title, limits, steps in found
    ]
    made = {"kind": "profile", "schema_version": 1, "created_utc": machine.now()}
    return {**made, "env": machine.environment(), "networks": profiles}


def _flops(step: Step) -> int:
    weight = step.node.weight
    if weight is None or not isinstance(step.node.op, Conv2d | Linear):
        return 0
    shape = step.case.shape
    return 2 * weight.nnz * shape[0] * math.prod(shape[2:])


def _bytes(step: Step) -> int:
    arrays = (*step.inputs, step.output, *step.packed.values())
    return sum(array.nbytes for array in arrays)
