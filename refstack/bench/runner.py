"""The bench verb: which cells, which are done already, measure the others, one row each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import refstack
from refstack import datasets
from refstack.backends import BACKENDS, backend
from refstack.bench import accuracy, artifacts, machine
from refstack.bench.artifacts import Artifact
from refstack.bench.cells import Cell, sweep
from refstack.bench.journal import Journal, Row
from refstack.bench.report import Report
from refstack.bench.rounds import Policy, Run, measure
from refstack.bench.worker import ChildFailed, Worker
from refstack.compress import TECHNIQUES
from refstack.errors import BackendUnavailable, RefstackError, UsageError
from refstack.models import MODELS

OUTPUT = Path("results/bench.jsonl")
UNITS = 6  # of progress for each cell: one to load and check it, the others are its share of the rounds
CHILD_BYTES = 160 << 20  # Python, NumPy, SciPy
GROUP_BYTES_PER_PARAMETER = 24  # file, graph, packed weights, and the float64 check of the largest layer


def bench(
    models: Sequence[str] | None = None,
    techniques: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    batch: int = 1,
    data: str | Path | None = None,
    quick: bool = False,
    output: str | Path = OUTPUT,
    seed: int = 0,
    fresh: bool = False,
    policy: Policy | None = None,
    report: Report | None = None,
) -> list[Row]:
    """Time every combination, each output checked before and after, and journal a row for each.

    Args
        models      names or checkpoint files       default: the study's three networks
        techniques  default: all                    backends    default: those that can run here
        threads     default: 1 and 2, as far as this process may use them; `numpy` always runs with one
        data        data set for top-1; without it the recorded accuracies are quoted
        quick       fewer rounds, top-1 on a few images; rows are marked and never mixed with full ones
        output      journal; cells that it holds already (same artifact, machine and code) are not run again
        fresh       set an existing journal aside as <output>.old first
    Returns         a row for every cell, in order, failures included (status, status_reason)
    Raises          UsageError, BackendUnavailable before anything runs; ResourceError when the disk is full
    """
    report = report or Report()
    allowed = machine.threads_allowed()
    counts = _threads(threads, allowed, report)
    names = _names("model", models, list(MODELS), paths=True)
    kinds = _names("technique", techniques, list(TECHNIQUES))
    cells = sweep(names, kinds, _backends(backends, report), counts, _whole("batch", batch))
    policy = policy or (Policy.quick() if quick else Policy())
    output = Path(output)
    if fresh and output.exists():
        output.replace(output.with_name(f"{output.name}.old"))
    env = machine.environment()
    report.note(f"journal: {output}")
    with Journal(output) as journal, tempfile.TemporaryDirectory(prefix="refstack-") as folder:
        if journal.damaged:
            report.note(f"{journal.damaged} damaged lines of the journal are ignored")
        bench_run = _Bench(
            Path(folder), journal, env, policy, quick, seed, allowed, report, _judge(data, quick, report)
        )
        return bench_run.all(cells)


class _Bench:
    """One run: what all its cells share."""

    def __init__(
        self, folder: Path, journal: Journal, env: Row, policy: Policy, quick: bool, seed: int, allowed: int,
        report: Report, judge: datasets.Dataset | None,
    ) -> None:  # fmt: skip
        self.folder, self.journal, self.env, self.policy, self.quick = folder, journal, env, policy, quick
        self.seed, self.allowed, self.report, self.judge = seed, allowed, report, judge
        self.done = {row["cell_id"]: row for row in journal.rows if row["status"] == "ok"}
        self.machine: Row = {}
        if judge is not None:
            accuracy.save(judge, folder / "data.npy")

    def all(self, cells: list[Cell]) -> list[Row]:
        """Rows of all cells, in order."""
        self.report.begin(len(cells) * UNITS)
        self.machine = {"load_average": machine.load_average(), "roofs": self._roofs(cells), "at": _now()}
        rows: dict[Cell, Row] = {}
        for model in dict.fromkeys(cell.model for cell in cells):
            rows |= self._model(model, [cell for cell in cells if cell.model == model])
        return [rows[cell] for cell in cells]

    def _roofs(self, cells: list[Cell]) -> Any:
        counts = sorted({cell.threads for cell in cells if cell.threads <= self.allowed} or {1})
        with Worker(max(counts)) as worker:
            try:
                return worker.ask("roofs", self.policy.load_timeout_s, threads=counts)["roofs"]
            except ChildFailed as error:
                self.report.note(f"machine limits not measured: {error.reason}")
                return None

    def _model(self, model: str, cells: list[Cell]) -> dict[Cell, Row]:
        """All cells of one network: kept rows, rows of what cannot even be compressed, measured rows."""
        rows: dict[Cell, Row] = {}
        todo: list[tuple[Cell, Artifact]] = []
        top1: dict[str, accuracy.Top1] = {}
        graph = artifacts.source(model, self.seed)
        images = artifacts.images(model, cells[0].batch, self.seed)
        for technique in dict.fromkeys(cell.technique for cell in cells):
            mine = [cell for cell in cells if cell.technique == technique]
            self.report.advance(0, f"{model} {technique}: compress")
            try:
                artifact = artifacts.make(model, graph, technique, images, self.folder)
            except RefstackError as error:
                for cell in mine:
                    run = Run(cell, None, status="failed", reason=f"{type(error).__name__}: {error}")
                    rows[cell] = self._write(run, accuracy.Top1(reason="the technique failed"))
                continue
            kept = {cell: self.done.get(self._id(cell, artifact)) for cell in mine}
            rows |= {cell: row for cell, row in kept.items() if row is not None}
            todo += [(cell, artifact) for cell in mine if kept[cell] is None]
            if None in kept.values():
                top1[technique] = self._top1(graph, artifact)
        self.report.advance(UNITS * len(rows), f"{model}: {len(rows)} cells are in the journal")
        for part in _parts(todo):
            for run in measure(part, self.policy, self.allowed, self.seed, self._progress(len(part))):
                rows[run.cell] = self._write(run, top1[run.cell.technique])
        return rows

    def _top1(self, graph: Any, artifact: Artifact) -> accuracy.Top1:
        found = accuracy.recorded(graph, artifact)
        if self.judge is None or artifact.facts["weights"] == "drawn":
            return found
        self.report.advance(0, f"{artifact.model} {artifact.technique}: top-1 on {len(self.judge)} images")
        name = next(name for name in BACKENDS if backend(name).unavailable() is None)
        return accuracy.measured(artifact, self.folder / "data.npy", self.judge, name, self.allowed)

    def _progress(self, count: int) -> Any:
        def progress(text: str) -> None:
            share = (UNITS - 1) * count / self.policy.rounds if text == "timing" else 1
            self.report.advance(share, text)

        return progress

    def _id(self, cell: Cell, artifact: Artifact | None) -> str:
        return cell.id(artifact.sha256 if artifact else "", self.env["key"], self.quick)

    def _write(self, run: Run, top1: accuracy.Top1) -> Row:
        row = self._row(run, top1)
        self.journal.append(row)
        return self.journal.rows[-1]

    def _row(self, run: Run, top1: accuracy.Top1) -> Row:
        """All that is known of a cell. A cell that failed has no times."""
        facts = run.artifact.facts if run.artifact else {}
        p50, p90 = (np.quantile(run.samples_ns, (0.5, 0.9)) / 1e6).tolist() if run.samples_ns else (None, None)
        return {
            "cell_id": self._id(run.cell, run.artifact),
            "created_utc": _now(),
            "refstack_version": refstack.__version__,
            "quick": self.quick,
            "status": run.status,
            "status_reason": run.reason,
            **vars(run.cell),
            **facts,
            "latency_p50_ms": p50,
            "latency_p90_ms": p90,
            **top1.fields(),
            **{name: value for name, value in run.facts.items() if name != "run_ns"},
            "samples_ns": run.samples_ns,
            "machine": self.machine,
            "env": self.env,
        }


def _parts(todo: list[tuple[Cell, Artifact]]) -> list[list[tuple[Cell, Artifact]]]:
    """As many cells together as memory holds children for."""
    if not todo:
        return []
    largest = max(artifact.facts["params"] for _, artifact in todo)
    each = CHILD_BYTES + GROUP_BYTES_PER_PARAMETER * largest
    size = max(1, int(psutil.virtual_memory().available // 2 // each))
    return [todo[i : i + size] for i in range(0, len(todo), size)]


def _judge(data: str | Path | None, quick: bool, report: Report) -> datasets.Dataset | None:
    """The data set to measure top-1 on, or None."""
    path = data or datasets.find()
    if path is None:
        return None
    found = datasets.load(path)
    found = found.subset(min(accuracy.QUICK_IMAGES, len(found))) if quick else found
    report.note(f"top-1 on {found.name}, {len(found)} images")
    return found


def _names(what: str, asked: Sequence[str] | None, known: Sequence[str], paths: bool = False) -> list[str]:
    """What was asked for, once each and in that order; all that is known if nothing was."""
    names = list(dict.fromkeys(asked)) if asked is not None else list(known)
    for name in names:
        if name not in known and not (paths and Path(name).suffix):
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"unknown {what} {name!r}: {hint}wanted {', '.join(known)}")
    if not names:
        raise UsageError(f"no {what} named, wanted at least one of {', '.join(known)}")
    return names


def _backends(asked: Sequence[str] | None, report: Report) -> list[str]:
    """Those asked for, every one of which must run here; else those that do."""
    names = _names("backend", asked, BACKENDS)
    why = {name: backend(name).unavailable() for name in names}
    for name, reason in why.items():
        if reason and asked is not None:
            raise BackendUnavailable(f"backend {name}: {reason}")
        if reason:
            report.note(f"backend {name} is left out: {reason}")
    return [name for name, reason in why.items() if reason is None]


def _threads(asked: Sequence[int] | None, allowed: int, report: Report) -> list[int]:
    if asked is None:
        return [n for n in (1, 2) if n <= allowed]
    counts = list(dict.fromkeys(_whole("threads", n) for n in asked))
    if not counts:
        raise UsageError("threads: none named, wanted whole numbers of at least 1, for example 1,2")
    if max(counts) > allowed:
        report.note(f"{max(counts)} threads asked for, this process may use {allowed} CPUs: they will share them")
    return counts


def _whole(what: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{what}: got {value!r}, wanted a whole number of at least 1")
    return value


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
