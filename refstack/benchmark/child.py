"""One cell in a process of its own: build, measure memory, check, then time on command (load, time, finish, ..)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from refstack import backends, checkpoint
from refstack.errors import CheckFailed
from refstack.graph import INPUT, Graph, Node
from refstack.ops import ReLU
from refstack.worker import memory_bytes, reset_peak, serve
from refstack.yardstick import yardstick_ns

Reply = dict[str, Any]


class Session:
    """What the child holds between commands."""

    def load(
        self, graph: str, input: str, oracle: str, backend: str, threads: int, tuned: dict[str, str] | None = None
    ) -> Reply:
        """Plan, measure memory, check. CheckFailed leaves nothing that `time` could time."""
        from refstack.compare import check_plan
        from refstack.planner import plan

        x = np.load(input, allow_pickle=False)
        idle = plan(Graph("idle", (1, 1, 1), (Node("relu", ReLU(), (INPUT,)),)), 1, (backend,), threads)
        idle.run(np.zeros((1, 1, 1, 1), np.float32))  # libraries loaded, threads started: not of this network
        baseline, since = memory_bytes("VmRSS"), reset_peak()
        made = plan(Path(graph), len(x), (backend,), threads, tuned)
        peak = memory_bytes("VmHWM")
        reset_peak()
        made.run(x)
        start = time.perf_counter_ns()
        made.run(x)
        run_ns = time.perf_counter_ns() - start
        running = memory_bytes("VmHWM")
        verdict = check_plan(made, x, np.load(oracle, allow_pickle=False), checkpoint.load(graph))
        if not verdict.passed:
            raise CheckFailed(verdict.problem)
        self.plan, self.x, self.output = made, x, verdict.output
        names = [step.kernel.name for step in made.steps]
        return {
            "run_ns": run_ns,
            "planned_bytes": made.planned_bytes,
            "arena_bytes": made.arena_bytes,
            "weight_bytes": made.weight_bytes,
            "baseline_rss_bytes": baseline,
            "peak_rss_bytes": max((n for n in (peak, running) if n is not None), default=None),
            "running_rss_bytes": running if since == "baseline" else None,
            "peak_rss_since": since,
            "max_error_vs_bound": verdict.worst,
            "n_checked": len(verdict.layers),
            "n_elements_checked": sum(layer.compared for layer in verdict.layers),
            "logit_error": verdict.logit_error,
            "logit_scale": verdict.logit_scale,
            "kernels": {name: names.count(name) for name in names},
            "fallbacks": len(made.fallbacks),
            "tuned": made.tuned,
        }

    def time(self, runs: int, warmup: int) -> Reply:
        """`warmup` runs untimed, then `runs` timed one by one; the last output must still be the checked one."""
        run, x, clock = self.plan.run, self.x, time.perf_counter_ns
        before = yardstick_ns()
        for _ in range(warmup):
            run(x)
        samples = []
        for _ in range(runs):
            start = clock()
            y = run(x)
            samples.append(clock() - start)
        after = yardstick_ns()
        if not np.array_equal(y, self.output):
            raise CheckFailed("an output of the timed runs differs from the checked one")
        return {"samples_ns": samples, "yardstick_ns": min(before, after)}

    def finish(self) -> Reply:
        """After the last round, on a poisoned arena: the output is still computed, and still the checked one."""
        self.plan.y[...] = np.nan
        if not np.array_equal(self.plan.run(self.x), self.output):
            raise CheckFailed("the output after timing differs from the checked one")
        return {}

    def accuracy(self, graph: str, data: str, backends: list[str], threads: int) -> Reply:
        """How many images of a saved data set (accuracy.py) the network gets right."""
        from refstack.datasets import Dataset
        from refstack.evaluation import evaluate

        record = np.load(data, allow_pickle=False)
        dataset = Dataset("", record["image"], record["label"], "", data, ("",) * len(record))
        found = evaluate(checkpoint.load(graph), dataset, backends, threads)
        return {"correct": found.correct, "n": found.n}

    def roof(self, backend: str) -> Reply:
        """What a backend's device can do at best, if it is not the host."""
        return dict(backends.roof(backend, 1))

    def roofs(self, threads: list[int]) -> Reply:
        """What the machine can do at best."""
        from refstack.backends.roofs import measure

        return {"roofs": [measure(n) for n in threads]}


def main() -> None:
    """Serve until the parent closes the pipe or dies."""
    serve(Session(), ("load", "time", "finish", "accuracy", "roof", "roofs"))


if __name__ == "__main__":
    main()
