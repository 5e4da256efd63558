"""The bench verb: which cells, which are done already, measure the others, one row each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import refstack
from refstack import datasets
from refstack.backends import BACKENDS, NAMES, backend, device
from refstack.benchmark import accuracy, artifacts, choices, machine, request
from refstack.benchmark.artifacts import Artifact
from refstack.benchmark.cells import Cell, sweep
from refstack.benchmark.journal import Journal
from refstack.benchmark.report import Report
from refstack.benchmark.rounds import Policy, Run, measure
from refstack.benchmark.rows import Row
from refstack.benchmark.worker import ChildFailed, Worker
from refstack.datasets import Dataset
from refstack.errors import RefstackError
from refstack.graph import Graph
from refstack.models import MODELS
from refstack.peers import FOLDER, PEERS
from refstack.peers.setup import Field, Host, Skipped
from refstack.verification import refused

OUTPUT = Path("results/bench.jsonl")
UNITS = 6  # of progress for each cell: one to load and check it, the others are its share of the rounds
CHILD_BYTES = 160 << 20  # Python, NumPy, SciPy
BYTES_PER_PARAMETER = 24  # file, graph, packed weights, and the float64 check of the largest layer
SLOWER = 0.8  # of the speed before: below it the machine was not the same machine all along


def bench(
    models: Sequence[str] | str | None = None,
    techniques: Sequence[str] | str | None = None,
    backends: Sequence[str] | str | None = None,
    threads: Sequence[int] | int | None = None,
    batch: int = 1,
    data: str | Path | None = None,
    quick: bool = False,
    output: str | Path = OUTPUT,
    seed: int = 0,
    fresh: bool = False,
    one_shot: bool = False,
    tuned: bool = True,
    policy: Policy | None = None,
    report: Report | None = None,
    peers: Sequence[str] | str | None = None,
    peers_folder: str | Path = FOLDER,
) -> list[Row]:
    """Time every combination, each output checked before and after, and journal a row for each.

    Args
        models      names or checkpoint files       default: the study's three networks
        techniques  names, or trained points without the model's name (weight-0.8); default: dense, weight, channel,
                    ternary, int8. For the study's networks a technique means its trained point, if one is shipped
        one_shot    compress here and now instead, without training; what else files of one's own get
        backends    default: those that can run here
        threads     default: 1 and 2, as far as this process may use them; `numpy` always runs with one
        data        data set for top-1. Without it, recorded accuracies are quoted, and what has none is measured on
                    the fetched data set if there is one
        quick       fewer rounds, top-1 on a few images; rows are marked and never mixed with full ones
        output      journal; cells that it holds already (same artifact, machine and code) are not run again
        peers       other runtimes to time beside: names of refstack.peers.PEERS
        peers_folder  their environments, as `make peers` makes them
        fresh       set an existing journal aside first, under the time of its last row
        tuned       use the kernels that `tune` found for this machine; rows say how many layers that changes
    Returns         a row for every cell, in order, failures included (status, status_reason)
    Raises          UsageError, BackendUnavailable before anything runs; ResourceError when the disk is full
    """
    report, output = report or Report(), Path(output)
    allowed = machine.threads_allowed()
    counts = request.thread_counts(threads, allowed, report)
    names = request.names("model", models, list(MODELS), paths=True)
    kinds = request.techniques(techniques, names)
    usable = request.usable_backends(backends, report)
    rivals = request.names("peer", peers, list(PEERS)) if peers is not None else []
    single = ["numpy", *(name for name in usable if (device(name) or {}).get("kind") == "gpu")]
    cells = sweep(names, kinds, [*usable, *rivals], counts, request.whole("batch", batch), single)
    networks = {name: artifacts.source(name, seed) for name in names}
    judge = _judge(data, quick, report)
    if fresh and output.exists():
        with Journal(output) as journal:
            report.note(f"the journal so far is set aside: {journal.set_aside()}")
    with Journal(output) as journal, tempfile.TemporaryDirectory(prefix="refstack-") as folder:
        report.note(f"journal: {output}")
        if journal.damaged:
            report.note(f"{journal.damaged} damaged lines of the journal are ignored")
        if judge is not None:
            accuracy.save(judge, Path(folder, "data.npy"))
        policy = policy or (Policy.quick() if quick else Policy())
        others = Field(tuple(rivals), Path(peers_folder), policy.load_timeout_s)
        sweeper = _Sweep(
            Path(folder), journal, machine.environment(), policy, quick, seed, allowed, report, judge,
            data is not None, one_shot, _choices(cells) if tuned else {}, others,
        )  # fmt: skip
        return sweeper.rows(cells, networks)


@dataclass(eq=False)
class _Sweep:
    """One run: what all its cells share."""

    folder: Path
    journal: Journal
    env: Row
    policy: Policy
    quick: bool
    seed: int
    allowed: int
    report: Report
    judge: Dataset | None
    judge_named: bool
    one_shot: bool
    choices: dict[tuple[str, int], dict[str, str]]
    peers: Field
    machine: Row = field(default_factory=dict)
    on: dict[str, Row] = field(default_factory=dict)

    def rows(self, cells: list[Cell], networks: dict[str, Graph]) -> list[Row]:
        """Rows of all cells, in order."""
        self.report.begin(len(cells) * UNITS)
        self.report.advance(0, "machine limits")
        before = self._roofs(cells)
        self.machine = {"load_average": machine.load_average(), "roofs": before, "measured_utc": machine.now()}
        for name in sorted({cell.backend for cell in cells}.intersection(NAMES)):
            self._look_at(name)
        known = len(self.journal.rows)
        rows: dict[Cell, Row] = {}
        for model, graph in networks.items():
            rows |= self._network(model, graph, [cell for cell in cells if cell.model == model])
        if len(self.journal.rows) > known:
            self._compare(before, self._roofs(cells))
        return [rows[cell] for cell in cells]

    def _look_at(self, name: str) -> None:
        """What a backend computes on, with its limits if they are not this machine's."""
        on = device(name)
        if on is None:
            return
        self.on[name] = dict(on)
        if on["kind"] == "gpu":
            with Worker(1) as worker:
                try:
                    self.on[name]["roof"] = worker.ask("roof", self.policy.load_timeout_s, backend=name)
                except ChildFailed as error:
                    self.report.note(f"limits of {on['name']} not measured: {error.reason}")

    def _roofs(self, cells: list[Cell]) -> Any:
        counts = sorted({cell.threads for cell in cells if cell.threads <= self.allowed} or {1})
        with Worker(max(counts)) as worker:
            try:
                return worker.ask("roofs", self.policy.load_timeout_s, threads=counts)["roofs"]
            except ChildFailed as error:
                self.report.note(f"machine limits not measured: {error.reason}")
                return None

    def _compare(self, before: Any, after: Any) -> None:
        """The canary: a machine that computes slower after the run than before it was not alone, or got hot."""
        for first, last in zip(before or (), after or (), strict=False):
            now, then = last["flops"], first["flops"]
            unstable = min(now, then) < SLOWER * max(now, then)
            words = ": the machine was not steady, times may be off" if unstable else ""
            figures = f"{then / 1e9:.0f} GFLOP/s before, {now / 1e9:.0f} after"
            self.report.note(f"FMA peak, threads {first['threads']}: {figures}{words}")

    def _network(self, model: str, graph: Graph, cells: list[Cell]) -> dict[Cell, Row]:
        """All cells of one network: kept rows, rows of what cannot even be compressed, measured rows."""
        rows: dict[Cell, Row] = {}
        todo: list[tuple[Cell, Artifact]] = []
        top1: dict[str, accuracy.Top1] = {}
        tuned: dict[Cell, dict[str, str]] = {}
        images = artifacts.images(model, graph, cells[0].batch, self.seed)
        done = {row["cell_id"]: row for row in self.journal.rows if row["status"] == "ok"}
        for technique in dict.fromkeys(cell.technique for cell in cells):
            mine = [cell for cell in cells if cell.technique == technique]
            self.report.advance(0, f"{model} {technique}: compress")
            try:
                artifact = artifacts.make(model, graph, technique, images, self.folder, self.one_shot, self.seed)
            except RefstackError as error:
                failed = [Run(cell, None, status="failed", reason=f"{type(error).__name__}: {error}") for cell in mine]
                rows |= {run.cell: self._write(run, accuracy.Top1(reason="the technique failed")) for run in failed}
                continue
            tuned |= {cell: self._tuned(cell, artifact) for cell in mine}
            kept = {cell: done[key] for cell in mine if (key := self._id(cell, artifact, tuned[cell])) in done}
            rows |= kept
            todo += [(cell, artifact) for cell in mine if cell not in kept]
            if len(kept) < len(mine):
                top1[technique] = self._top1(graph, artifact)
        self.report.advance(UNITS * len(rows), model)
        if len(todo) < len(cells):
            self.report.note(
                f"{model}: {len(rows)} of {len(cells)} cells are in the journal, --fresh measures them again"
            )
        for part in _parts(todo):
            hosts, skipped = self._hosts(part)
            part = [(cell, artifact) for cell, artifact in part if cell not in skipped]
            gate, progress = partial(refused, say=self.report.note), self._progress(len(part))
            runs = measure(part, self.policy, self.allowed, self.seed, progress, gate, hosts, tuned)
            for run in [*runs, *skipped.values()]:
                rows[run.cell] = self._write(run, top1[run.cell.technique])
        return rows

    def _hosts(self, todo: list[tuple[Cell, Artifact]]) -> tuple[dict[Cell, Host], dict[Cell, Run]]:
        """Where the peers' cells run; and those that cannot, as runs that say why."""
        hosts: dict[Cell, Host] = {}
        others: dict[Cell, Run] = {}
        for cell, artifact in todo:
            if cell.backend in self.peers.names:
                self.report.advance(0, f"{cell}: prepare")
                try:
                    hosts[cell] = self.peers.host(cell.backend, artifact.files, cell.threads)
                except Skipped as reason:
                    others[cell] = Run(cell, artifact, status="skipped", reason=str(reason))
                except ChildFailed as error:
                    others[cell] = Run(cell, artifact, status=error.status, reason=error.reason)
        self.report.advance(UNITS * len(others), "peers")
        return hosts, others

    def _top1(self, graph: Graph, artifact: Artifact) -> accuracy.Top1:
        found = accuracy.recorded(graph, artifact)
        drawn = artifact.facts["weights"] == "drawn"
        if self.judge is None or drawn or (found.source and not self.judge_named):
            return found
        self.report.advance(0, f"{artifact.model} {artifact.technique}: top-1 on {len(self.judge)} images")
        fastest = [name for name in BACKENDS if backend(name).unavailable() is None]
        return accuracy.measured(artifact, self.folder / "data.npy", self.judge, fastest, self.allowed)

    def _progress(self, count: int) -> Callable[[str], None]:
        def progress(text: str) -> None:
            share = (UNITS - 1) * count / self.policy.rounds if text == "timing" else 1
            self.report.advance(share, text)

        return progress

    def _tuned(self, cell: Cell, artifact: Artifact) -> dict[str, str]:
        """What was chosen for this network's own cases: a row does not depend on how others were tuned."""
        known = self.choices.get((cell.backend, cell.threads), {})
        return {case: known[case] for case in artifact.cases if case in known}

    def _id(self, cell: Cell, artifact: Artifact | None, tuned: Mapping[str, str]) -> str:
        key = self.env["key"] + self.peers.versions.get(cell.backend, "") + str(device(cell.backend) or "")
        return cell.id(artifact.sha256 if artifact else "", key, self.quick, tuned)

    def _write(self, run: Run, top1: accuracy.Top1) -> Row:
        """All that is known of a cell, journalled. A cell that failed has no times."""
        facts = run.artifact.facts if run.artifact else {}
        p50, p90 = (np.quantile(run.samples_ns, (0.5, 0.9)) / 1e6).tolist() if run.samples_ns else (None, None)
        return self.journal.append(
            {
                "cell_id": self._id(run.cell, run.artifact, run.tuned),
                "created_utc": machine.now(),
                "refstack_version": refstack.__version__,
                "quick": self.quick,
                "status": run.status,
                "status_reason": run.reason,
                **vars(run.cell),
                **facts,
                "latency_p50_ms": p50,
                "latency_p90_ms": p90,
                **top1.fields(),
                **(run.host.facts if run.host else {}),
                **{name: value for name, value in run.facts.items() if name != "run_ns"},
                "samples_ns": run.samples_ns,
                "rounds": run.rounds,
                "yardstick_ns": run.yardstick_ns,
                "env": {**self.env, **self.machine, "device": self.on.get(run.cell.backend)},
            }
        )


def _choices(cells: Sequence[Cell]) -> dict[tuple[str, int], dict[str, str]]:
    """Read once: a run of tune meanwhile does not change what the later cells are."""
    return {key: choices.tuned(*key) for key in dict.fromkeys((cell.backend, cell.threads) for cell in cells)}


def _parts(todo: list[tuple[Cell, Artifact]]) -> list[list[tuple[Cell, Artifact]]]:
    """As many cells together as memory holds children for; a technique is split only if it has to be."""
    if not todo:
        return []
    largest = max(artifact.facts["params"] for _, artifact in todo)
    each = CHILD_BYTES + BYTES_PER_PARAMETER * largest
    size = max(1, int(psutil.virtual_memory().available // 2 // each))
    parts: list[list[tuple[Cell, Artifact]]] = [[]]
    for _, group in groupby(todo, key=lambda one: one[0].technique):
        cells = list(group)
        if len(parts[-1]) + len(cells) > size:
            parts += [cells[i : i + size] for i in range(0, len(cells), size)]
        else:
            parts[-1] += cells
    return [part for part in parts if part]


def _judge(data: str | Path | None, quick: bool, report: Report) -> Dataset | None:
    """The data set to measure top-1 on, or None."""
    path = data or datasets.find()
    if path is None:
        return None
    found = datasets.load(path)
    found = found.subset(min(accuracy.QUICK_IMAGES, len(found))) if quick else found
    report.note(f"data set: {found.name}, {len(found)} images")
    return found
