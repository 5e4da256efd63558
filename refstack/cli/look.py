"""Verbs that say what there is: points, kernels, explain, doctor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refstack.cli.options import Device, Format, Model, OneShot, Technique, Threads, Tuned, View, say, show, words

if TYPE_CHECKING:
    from refstack.backends import Step
    from refstack.benchmark.choices import Found
    from refstack.kernels import Kernel
    from refstack.ops import Op


def points(
    model: Annotated[str, typer.Argument(help="Only this network's.")] = "*",
    technique: Annotated[str, typer.Option("--technique", "-t", help="Only these, a glob.")] = "*",
    format: Format = View.table,
) -> None:
    """List the trained points: accuracy, parameters, multiply-adds, bytes, and whose weights are shipped."""
    from fnmatch import fnmatchcase

    from refstack.models import zoo

    found = [
        {
            "point": point.name,
            "top1": {name: round(each["top1"], 2) for name, each in point.accuracy.items()},
            "params": point.params,
            "nnz": point.nnz,
            "macs": point.macs,
            "stored_bytes": point.stored_bytes,
            "shipped": point.file is not None,
        }
        for point in zoo.points()
        if fnmatchcase(point.model, model) and fnmatchcase(point.technique, technique)
    ]
    show(found, format, ["params", "nnz", "macs", "stored_bytes"])
    say(f"{len(found)} points; `refstack evaluate -m NAME` runs one that is shipped, `refstack bench -t` times any")


def kernels(
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="Only these, separated by commas.")] = None,
    name: Annotated[str, typer.Option("--kernel", "-k", help="Glob over op.format.backend.variant.")] = "*",
    device: Device = None,
    format: Format = View.table,
) -> None:
    """List the registry: every kernel in order of preference, its layouts, and what it needs of a problem."""
    from fnmatch import fnmatchcase

    from refstack.backends import BACKENDS, rows
    from refstack.backends import backend as named
    from refstack.errors import UsageError

    found = []
    for each in words(backend) or BACKENDS:
        reason = named(each).unavailable()
        if reason and backend is None:
            say(f"backend {each} is left out: {reason}")
            continue
        found += [row for row in rows([each]) if row.backend == each and fnmatchcase(row.name, name)]
    if not found:
        raise UsageError(f"no kernel is called {name!r}; without --kernel all are listed")
    show(
        [
            {
                "kernel": row.name,
                "layouts": " > ".join(row.layouts),
                "needs": [need.__qualname__.partition(".")[0] for need in row.needs],
                "exact": row.exact,
                "summary": row.summary or (getattr(row.run, "__doc__", None) or "").partition("\n")[0],
            }
            for row in found
        ],
        format,
    )


def devices(format: Format = View.table) -> None:
    """List what OpenCL kernels could run on; `*` marks what they do run on, --device chooses another."""
    from refstack.backends.opencl import devices as found
    from refstack.errors import BackendUnavailable

    try:
        used = found.chosen().label
    except BackendUnavailable:
        used = ""
    listed = [
        {
            "device": each.label,
            "used": "*" if each.label == used else "",
            "kind": each.kind,
            "compute_units": each.compute_units,
            "memory_mb": each.memory_bytes >> 20,
            "local_kb": each.local_bytes >> 10,
            "driver": each.driver,
            "problem": each.problem or None,
        }
        for each in found.devices()
    ]
    show(listed, format, ("compute_units", "memory_mb", "local_kb"))


def explain(
    model: Model,
    technique: Technique = "dense",
    one_shot: OneShot = False,
    backends: Annotated[str, typer.Option("--backends", "-b", help="In order of preference.")] = "openmp,blas,numpy",
    threads: Threads = 1,
    batch: Annotated[int, typer.Option("--batch", help="Images in one run.")] = 1,
    tuned: Tuned = True,
    device: Device = None,
    format: Format = View.table,
) -> None:
    """The plan of a network: each layer's kernel and layouts, the others with their times, and why some were refused.

    Times are those that `refstack tune` measured on this machine; `*` marks the kernel that the layer got.
    """
    from refstack.backends import rows
    from refstack.benchmark import choices
    from refstack.benchmark.artifacts import source
    from refstack.compression.trained import under
    from refstack.errors import UsageError
    from refstack.planner import plan

    whole = source(model, 0)
    graph, point = under(model, whole, technique, one_shot)
    if "drawn" in (whole.meta.get("technique"), graph.meta.get("technique")):
        say(f"{model if point is None else point.name}: weights drawn at random, no checkpoint is there")
    used = words(backends)
    if not used:
        raise UsageError("explain: --backends names none, wanted for example openmp,numpy")
    kernels = rows(used)
    kept = choices.kept(used[0], threads) if tuned else {}
    made = plan(graph, batch, used, threads, choices.better(kept))
    found = [_explained(step, kernels, kept) for step in made.steps]
    show(found if format is View.json else [_shown(each) for each in found], format)
    say(
        f"{len(made.steps)} steps, segments: {len(made.segments)}; arena {made.arena_bytes / 1e6:.2f} MB, "
        f"packed weights {made.weight_bytes / 1e6:.2f} MB"
        + (f"; {made.part} images at a time, {len(made.parts)} times" if made.part < made.batch else "")
    )
    timed = sum(each["case"] in kept for each in found)
    if timed:
        say(f"{timed} layers have times of this machine, {made.tuned} have another kernel because of them")
    elif tuned:
        say("no times of this machine and build are kept: `refstack tune` measures them")


def _explained(step: Step, rows: Sequence[Kernel], kept: Mapping[str, Found]) -> dict[str, Any]:
    """One step; candidates are the rows of its backend that can run it, with us where they were measured. What tuning
    left out since it was wrong is refused."""
    from refstack.kernels import candidates

    case = step.case
    found = kept.get(case.word)
    able, refused = candidates(case, rows)
    return {
        "layer": step.node.name,
        "case": case.word,
        "kernel": step.kernel.name,
        "layouts": " > ".join(_layouts(step.kernel, step.node.op)),
        "candidates": {
            row.name: found.times_us.get(row.name) if found else None
            for row in able
            if row.backend == step.kernel.backend
        },
        "refused": [
            f"{name.rpartition('.')[2]}: {why}" for name, why in (*(found.left_out.items() if found else ()), *refused)
        ],
    }


def _shown(each: dict[str, Any]) -> dict[str, Any]:
    """The same, short enough for a table."""
    candidates = [
        f"{'*' if name == each['kernel'] else ' '} {name.rpartition('.')[2]}" + ("" if us is None else f" {us:.4g} us")
        for name, us in each["candidates"].items()
    ]
    return {**each, "candidates": candidates}


def _layouts(kernel: Kernel, op: Op) -> tuple[str, str]:
    return (op.source, op.target) if op.name == "reorder" else kernel.layouts  # type: ignore[attr-defined]


def doctor(
    require: Annotated[str, typer.Option("--require", help="What must be there, separated by commas.")] = "",
    format: Format = View.table,
) -> None:
    """What this machine offers, what is missing, and how to get it."""
    from dataclasses import asdict

    from refstack.doctor import doctor as run

    findings = run(words(require) or [])
    show([asdict(finding) for finding in findings], format)
    missing = [finding.what for finding in findings if finding.needed and not finding.ok]
    if missing:
        say(f"missing: {', '.join(missing)}")
        raise typer.Exit(3)
