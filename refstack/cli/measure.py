"""Verbs that run networks: bench, evaluate, classify."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from refstack.cli.options import (
    Backend,
    Data,
    Device,
    Format,
    OneShot,
    Technique,
    Threads,
    Tuned,
    View,
    best_backend,
    data_set,
    network,
    numbers,
    say,
    show,
    words,
)
from refstack.errors import UsageError

PARTIAL, INTERRUPTED = 4, 130


class BenchView(str, Enum):
    """The formats of bench."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    md = "md"


def _list(option: str, short: str, help: str) -> typer.models.OptionInfo:
    return typer.Option(option, short, help=f"{help}, separated by commas.")


def bench(
    models: Annotated[str | None, _list("--models", "-m", "Names or checkpoint files")] = None,
    techniques: Annotated[str | None, _list("--techniques", "-t", "dense, weight, weight-0.8 ..")] = None,
    backends: Annotated[str | None, _list("--backends", "-b", "openmp, blas, numpy")] = None,
    threads: Annotated[str | None, typer.Option("--threads", help="Thread counts, for example 1,2.")] = None,
    peers: Annotated[
        str | None, typer.Option("--peers", help="Other runtimes, timed beside: onnxruntime,openvino ..")
    ] = None,
    peers_folder: Annotated[
        Path, typer.Option("--peers-folder", help="Their environments, as `make peers` makes them.")
    ] = Path(".peers"),
    batch: Annotated[int, typer.Option("--batch", help="Images in one run.")] = 1,
    data: Data = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few samples; marked as quick in every row.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Journal; finished cells in it are kept.")] = Path(
        "results/bench.jsonl"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an existing journal aside and measure all.")] = False,
    one_shot: OneShot = False,
    tuned: Tuned = True,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of timing, and of drawn weights.")] = 0,
    profile: Annotated[bool, typer.Option("--profile", help="Time every layer instead, beside the roofs.")] = False,
    device: Device = None,
    view: Annotated[BenchView, typer.Option("--format", "-f", help="What goes to stdout.")] = BenchView.table,
) -> None:
    """Time networks under each technique, backend and thread count; every output is checked before it is timed."""
    from refstack.benchmark import bench as run
    from refstack.benchmark import tables
    from refstack.cli.progress import Shown

    counts = numbers(threads, "--threads")
    if profile:
        _profile(words(models), words(techniques), words(backends), counts, batch, one_shot, seed, tuned, view)
        return
    try:
        with Shown() as report:
            rows = run(
                words(models), words(techniques), words(backends), counts, batch, data, quick, output, seed, fresh,
                one_shot, tuned, report=report, peers=words(peers), peers_folder=peers_folder,
            )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted: what was finished is in {output}; the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    tables.write(rows, view.value, sys.stdout)
    failed = sum(row["status"] not in ("ok", "skipped") for row in rows)
    if failed:
        say(f"{failed} of {len(rows)} cells failed")
        raise typer.Exit(PARTIAL)


def _profile(
    models: list[str] | None,
    techniques: list[str] | None,
    backends: list[str] | None,
    threads: list[int] | None,
    batch: int,
    one_shot: bool,
    seed: int,
    tuned: bool,
    view: BenchView,
) -> None:
    """One table of layers for each combination, in this process."""
    from refstack.benchmark.machine import limits
    from refstack.benchmark.profile import networks, record
    from refstack.benchmark.rows import strict

    if view not in (BenchView.table, BenchView.json):
        raise UsageError(f"--profile: --format is {view.value}, wanted table or json")
    used, counts = backends or [best_backend(None)], threads or [1]
    found = networks(models, techniques, used, counts, batch, one_shot, seed, tuned)
    every = []
    for title, roof, steps in found:
        every.append((title, roof, steps))
        if view is BenchView.table:
            print(title)
            lines = [step.against(roof) for step in steps]
            show(lines, View.table, ("us", "percent", "gflop_per_s", "gb_per_s", "percent_of_roof"))
        took = sum(step.ns for step in steps) / 1e6
        say(f"{title}: {took:.3f} ms in {len(steps)} steps; the machine, {limits(roof)}")
    if view is BenchView.json:
        print(json.dumps(strict(record(every)), allow_nan=False, indent=1))


def evaluate(
    model: Annotated[str, typer.Option("--model", "-m", help="Name or checkpoint file.")],
    data: Data = None,
    technique: Technique = "dense",
    one_shot: OneShot = False,
    backends: Annotated[
        str | None, _list("--backends", "-b", "openmp, blas, numpy; default: the best that runs here")
    ] = None,
    threads: Threads = 1,
    batch: Annotated[int, typer.Option("--batch", help="Images in one run.")] = 32,
    limit: Annotated[int | None, typer.Option("--limit", help="Only so many images, classes taking turns.")] = None,
    tuned: Tuned = True,
    device: Device = None,
    format: Format = View.table,
) -> None:
    """Count the images a network gets right, and list those on which it departs from the recorded predictions."""
    from dataclasses import asdict

    from refstack import datasets
    from refstack.benchmark import choices
    from refstack.evaluation import evaluate as run

    graph = network(model, technique, one_shot)
    dataset = datasets.load(data_set(data))
    found = [
        run(graph, dataset, backend, threads, batch, limit, choices.tuned(backend, threads) if tuned else None)
        for backend in words(best_backend(backends)) or []
    ]
    records = [
        {
            "model": model,
            "technique": technique,
            "backend": each.backend,
            "threads": each.threads,
            "dataset": each.dataset,
            "correct": each.correct,
            "n": each.n,
            "top1": each.top1,
            "held_against_record": each.compared,
            "departures": [asdict(departure) | {"explained": departure.explained} for departure in each.departures],
            "passed": each.passed,
        }
        for each in found
    ]
    if format is View.json:
        show(records, format)
    else:
        show([record | {"departures": len(found[i].departures)} for i, record in enumerate(records)], format)
        departures = [{"backend": r["backend"], **each} for r in records for each in r["departures"]]  # type: ignore[attr-defined]
        if departures:
            show(departures, format)
    if not all(each.passed for each in found):
        say("a class differs from the record by more than rounding can explain: engine, file or images are wrong")
        raise typer.Exit(1)


def classify(
    image: Annotated[Path, typer.Argument(help="Any picture; its centre square is scaled to 32 x 32.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name or checkpoint file.")] = "resnet18",
    technique: Technique = "dense",
    one_shot: OneShot = False,
    backend: Backend = None,
    threads: Threads = 1,
    top: Annotated[int, typer.Option("--top", help="How many classes.")] = 5,
    tuned: Tuned = True,
    device: Device = None,
    format: Format = View.table,
) -> None:
    """The most likely classes of a picture."""
    from refstack import datasets
    from refstack.benchmark import choices
    from refstack.evaluation import classify as run

    pixels, used = datasets.load_image(image), best_backend(backend)
    kernels = choices.tuned(used, threads) if tuned else None
    guesses = run(network(model, technique, one_shot), pixels, used, threads, top, kernels)
    show([{"class": name, "probability": round(p, 6)} for name, p in guesses], format, ["probability"])
