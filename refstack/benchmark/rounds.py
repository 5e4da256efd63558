"""Timing: all cells of a group alive at once, one running at a time, a small block each in every round.

A slow minute of the machine then falls on all cells alike instead of on whichever was being timed, and ratios between
them stay true. So does a slow processor, one whose other half a stranger uses: a cell of one thread takes turns on all.
Order is shuffled anew each round. Every raw sample is kept.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from refstack.benchmark.artifacts import Artifact
from refstack.benchmark.cells import Cell
from refstack.benchmark.worker import ChildFailed, Worker
from refstack.peers.setup import Host
from refstack.verification import refused


@dataclass(frozen=True)
class Policy:
    """How much to measure.

    rounds      blocks of each cell             block_ms    length of a block; longer runs make blocks of one
    settle_s    pause after a block with several threads: OpenMP's and OpenBLAS's spin on for some 20 ms, and would take
                a core from the next cell
    cell_s      timed seconds for a cell: slow ones take part in fewer rounds, but in at least min_rounds
    """

    rounds: int = 10
    block_ms: float = 40.0
    cell_s: float = 1.0
    min_rounds: int = 3
    settle_s: float = 0.03
    load_timeout_s: float = 300.0
    time_timeout_s: float = 60.0

    @classmethod
    def quick(cls) -> Policy:
        """Enough to see whether everything works; marked as quick in every row."""
        return cls(rounds=3, block_ms=10.0, cell_s=0.3, min_rounds=3)


@dataclass(eq=False)
class Run:
    """A cell being measured. `facts` is what the child reported; `status` becomes the row's.

    artifact    None if the technique itself failed: then there is nothing to run
    tuned       kernels to prefer, as plan takes them
    rounds      samples of each block, in order         yardstick_ns    of each block: what the clock was meanwhile
    host        of a peer's cell; None: a backend of refstack
    """

    cell: Cell
    artifact: Artifact | None
    tuned: Mapping[str, str] = field(default_factory=dict)
    host: Host | None = None
    worker: Worker | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    samples_ns: list[int] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    yardstick_ns: list[int] = field(default_factory=list)
    status: str = "ok"
    reason: str | None = None

    def start(self) -> Worker:
        """Its child, which is told what to load."""
        threads = self.cell.threads
        if self.host is not None:
            self.worker, load = Worker(threads, self.host.command), self.host.load
        else:
            assert self.artifact is not None, "a cell without an artifact is not run"
            load = {**self.artifact.files, "backend": self.cell.backend, "threads": threads, "tuned": dict(self.tuned)}
            self.worker = Worker(threads)
        self.worker.send("load", **load)
        return self.worker

    def fail(self, error: ChildFailed) -> None:
        """No times for a cell that went wrong, whenever it did."""
        self.status, self.reason = error.status, error.reason
        self.samples_ns, self.rounds, self.yardstick_ns = [], [], []
        if self.worker is not None:
            self.worker.close()


Progress = Callable[[str], None]
Gate = Callable[[Iterable[str]], dict[str, str]]


def measure(
    cells: Sequence[tuple[Cell, Artifact]],
    policy: Policy,
    parallel: int,
    seed: int = 0,
    progress: Progress = lambda text: None,
    gate: Gate = refused,
    hosts: Mapping[Cell, Host] | None = None,
    tuned: Mapping[Cell, Mapping[str, str]] | None = None,
) -> list[Run]:
    """Start a child for every cell, have it checked, time them all in rounds.

    Args        parallel    children that may load and check at once; they are timed one at a time all the same
                progress    called once for each child that is loaded, and once for each round
                gate        which of these kernels may not be timed, and why: those that `verify` has not passed
                hosts       of the cells that are peers'      tuned   kernels to prefer, by cell
    """
    hosts, tuned = hosts or {}, tuned or {}
    runs = [Run(cell, artifact, tuned.get(cell, {}), hosts.get(cell)) for cell, artifact in cells]
    with ExitStack() as stack:
        _load(runs, policy, parallel, progress, stack)
        _refuse(runs, gate)
        rng = random.Random(seed)
        for turn in range(policy.rounds):
            order = [run for run in runs if run.status == "ok" and _takes_part(run, turn, policy)]
            rng.shuffle(order)
            for run in order:
                _block(run, policy)
                if run.cell.threads > 1:
                    time.sleep(policy.settle_s)
            progress("timing")
        for run in runs:
            _try(run, "finish", policy.time_timeout_s)
    return runs


def _load(runs: list[Run], policy: Policy, parallel: int, progress: Progress, stack: ExitStack) -> None:
    """At most `parallel` children at work; answers are taken in order."""
    waiting, working = deque(runs), deque[tuple[Run, Worker]]()
    while waiting or working:
        while waiting and len(working) < parallel:
            run = waiting.popleft()
            working.append((run, stack.enter_context(run.start())))
        run, worker = working.popleft()
        try:
            run.facts = worker.receive(policy.load_timeout_s)
        except ChildFailed as error:
            run.fail(error)
        progress(str(run.cell))


def _refuse(runs: list[Run], gate: Gate) -> None:
    """A cell whose checks went well on a kernel that is wrong elsewhere is not timed either."""
    reasons = gate({kernel for run in runs if run.status == "ok" for kernel in run.facts.get("kernels", ())})
    for run in runs:
        wrong = [reasons[kernel] for kernel in run.facts.get("kernels", ()) if kernel in reasons]
        if wrong and run.status == "ok":
            run.fail(ChildFailed("failed", "; ".join(wrong)))


def _takes_part(run: Run, turn: int, policy: Policy) -> bool:
    """A cell that can afford n of all rounds takes them evenly spread."""
    block_s = max(policy.block_ms / 1e3, run.facts["run_ns"] / 1e9)
    n = min(policy.rounds, max(policy.min_rounds, int(policy.cell_s / block_s)))
    return (turn + 1) * n // policy.rounds > turn * n // policy.rounds


def _block(run: Run, policy: Policy) -> None:
    """About block_ms of runs, after one untimed run unless a single one fills the block."""
    fit = int(policy.block_ms * 1e6 / max(1, run.facts["run_ns"]))
    single = run.worker if run.cell.threads == 1 else None  # several threads are placed by rs_run or by Linux
    with single.on(len(run.rounds)) if single else nullcontext():
        reply = _try(run, "time", policy.time_timeout_s, runs=max(1, fit), warmup=1 if fit else 0)
    if reply:
        run.samples_ns += reply["samples_ns"]
        run.rounds.append(len(reply["samples_ns"]))
        run.yardstick_ns.append(reply["yardstick_ns"])
        run.facts["run_ns"] = min(reply["samples_ns"])  # the first run of a process is slower than the others


def _try(run: Run, do: str, timeout_s: float, **arguments: int) -> dict[str, Any]:
    if run.status == "ok" and run.worker is not None:
        try:
            return run.worker.ask(do, timeout_s, **arguments)
        except ChildFailed as error:
            run.fail(error)
    return {}
