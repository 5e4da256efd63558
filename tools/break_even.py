"""At which density is sparse as fast as dense? Every convolution of the three networks, one image, on this machine.

    python tools/break_even.py [--threads 1] [--rounds 30] [--json FILE] [MODEL ..]     a Markdown table on stdout

A layer's smallest weights are set to zero, the same layer is planned dense and as CSR by the registry's choice, both
are checked, and then both are timed in turn, their own step alone: reorders between layouts are not counted. The ratio
is the median over rounds of dense / csr; the density of ratio 1 lies on a straight line between its neighbours. "=" is
where the sparse layer runs on the dense kernel.
`refstack report` draws the JSON file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import refstack as rs
from refstack.backends import Step, backend
from refstack.backends.roofs import measure
from refstack.benchmark.machine import environment, limits, now
from refstack.compression.layers import layers, recode
from refstack.compression.magnitude import smallest_to_zero
from refstack.container import write_bytes
from refstack.formats import Array, Csr, Dense
from refstack.graph import INPUT, Graph, Node
from refstack.models import MODELS
from refstack.ops import Conv2d, Shape
from refstack.passes import prepare

DENSITIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)


def alone(node: Node, shape: Shape, density: float) -> Graph:
    """The convolution as a network, its smallest weights gone."""
    assert node.weight is not None
    weight = Dense.encode(smallest_to_zero(node.weight.decode(), 1 - density))
    return Graph(node.name, shape[1:], (replace(node, inputs=(INPUT,), weight=weight),))


def ready(graph: Graph, x: Array, threads: int) -> tuple[Step, Callable[[], None]]:
    """The convolution's step of a plan that was checked, and a call of it alone."""
    plan = rs.plan(graph, backends=("openmp",), threads=threads)
    verdict = rs.check_plan(plan, x)
    assert verdict.passed, verdict.problem
    step = next(step for step in plan.steps if isinstance(step.case.op, Conv2d))
    return step, backend("openmp").lower((step,), threads)


def ratio(dense: Callable[[], None], sparse: Callable[[], None], rounds: int) -> float:
    """Median of dense / sparse; each is called once before it is timed."""
    found = []
    for _ in range(rounds):
        took = []
        for call in (dense, sparse):
            call()
            start = time.perf_counter_ns()
            call()
            took.append(time.perf_counter_ns() - start)
        found.append(took[0] / took[1])
    return statistics.median(found)


def even(ratios: dict[float, float]) -> str:
    """The density at which the ratio is 1."""
    points = sorted(ratios.items())
    for (d0, r0), (d1, r1) in pairwise(points):
        if r0 >= 1 > r1:
            return f"{100 * (d0 + (d1 - d0) * (r0 - 1) / (r0 - r1)):.0f} %"
    return f"below {100 * points[0][0]:.0f} %" if points[0][1] < 1 else f"above {100 * points[-1][0]:.0f} %"


def line(model: str, layer: str, problem: str, kernels: tuple[str, str], ratios: dict[float, float]) -> dict[str, Any]:
    """A layer of the record."""
    named = {"model": model, "layer": layer, "problem": problem, "dense": kernels[0], "csr": kernels[1]}
    return {**named, "ratios": {str(density): ratio for density, ratio in ratios.items()}, "even": even(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    print(f"| layer | problem | dense kernel | csr kernel | {' | '.join(f'{d:.0%}' for d in DENSITIES)} | even at |")
    print(f"|---|---|---|---|{'--:|' * (len(DENSITIES) + 1)}", flush=True)
    seen, lines = set(), []
    for model in asked.models:
        graph = prepare(rs.load(model))
        shapes = graph.shapes()
        for node in layers(graph)[1:]:
            if not isinstance(node.op, Conv2d) or node.op.groups > 1:
                continue
            x = np.random.default_rng(0).standard_normal(shapes[node.inputs[0]]).astype(np.float32)
            step, dense = ready(alone(node, x.shape, 1.0), x, asked.threads)
            word = step.case.word.partition(":")[2]
            if word in seen:
                continue
            seen.add(word)
            ratios, names = {}, [step.kernel.variant]
            for density in DENSITIES:
                other, sparse = ready(recode(alone(node, x.shape, density), Csr), x, asked.threads)
                if other.kernel.variant != step.kernel.variant:
                    ratios[density] = ratio(dense, sparse, asked.rounds)
                    names.append(other.kernel.variant)
            told = " | ".join(f"{ratios[each]:.2f}" if each in ratios else "=" for each in DENSITIES)
            print(f"| {model} {node.name} | `{word}` | {' | '.join(names[:2])} | {told} | {even(ratios)} |", flush=True)
            lines.append(line(model, node.name, word, (names[0], names[1]), ratios))
    roof = measure(asked.threads)
    print(f"\n{limits(roof)}")
    if asked.json:
        made = {"kind": "break-even", "schema_version": 1, "created_utc": now(), "env": environment(), "roof": roof}
        write_bytes(asked.json, json.dumps({**made, "layers": lines}, indent=1).encode())


if __name__ == "__main__":
    main()
