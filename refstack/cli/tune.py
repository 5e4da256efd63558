"""The verb that chooses kernels by measurement: tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from refstack.cli.measure import INTERRUPTED
from refstack.cli.options import Device, Format, OneShot, View, numbers, say, show, words

if TYPE_CHECKING:
    from refstack.benchmark.tuning import Tuning


def tune(
    models: Annotated[str | None, typer.Argument(help="Names or checkpoint files, separated by commas.")] = None,
    techniques: Annotated[
        str | None, typer.Option("--technique", "--techniques", "-t", help="dense, weight, weight-0.8 ..")
    ] = None,
    backends: Annotated[str, typer.Option("--backends", "-b", help="openmp, blas")] = "openmp",
    threads: Annotated[str, typer.Option("--threads", help="Thread counts, for example 1,2.")] = "1",
    batch: Annotated[int, typer.Option("--batch", help="Images in one run.")] = 1,
    one_shot: OneShot = False,
    seed: Annotated[int, typer.Option("--seed", help="Of drawn weights.")] = 0,
    forget: Annotated[bool, typer.Option("--forget", help="Remove all that was kept, and measure nothing.")] = False,
    device: Device = None,
    format: Format = View.table,
) -> None:
    """Time the kernels that could run each layer; bench, explain, evaluate, classify then use the fastest."""
    from refstack.benchmark import choices
    from refstack.benchmark.tuning import tune as run
    from refstack.cli.progress import Shown

    if forget:
        say(f"{choices.path()}: {'removed' if choices.forget() else 'nothing was kept'}")
        return
    counts = numbers(threads, "--threads")
    try:
        with Shown() as report:
            found = run(words(models), words(techniques), words(backends), counts, batch, one_shot, seed, report)
    except KeyboardInterrupt:
        say(f"interrupted: networks that were finished are kept in {choices.path()}")
        raise typer.Exit(INTERRUPTED) from None
    if format is View.json:
        show([{**_whole(each), "cases": list(each.records())} for each in found], format)
    else:
        for each in found:
            _print(each)
    for each in found:
        say(_summary(each))
    say(f"kept in {choices.path()}; --no-tuning leaves it out, `refstack tune --forget` removes it")


def _whole(each: Tuning) -> dict[str, Any]:
    fields = ("model", "technique", "backend", "threads", "batch", "default_ms", "tuned_ms", "gain", "dropped")
    return {name: getattr(each, name) for name in fields}


def _title(each: Tuning) -> str:
    return f"{each.model} {each.technique}, {each.backend}, {each.threads} thread{'s' * (each.threads > 1)}"


def _summary(each: Tuning) -> str:
    text = f"{_title(each)}: default {each.default_ms:.3f} ms, tuned {each.tuned_ms:.3f} ms, ratio {each.gain:.3f}"
    if each.dropped:
        text += f"; {len(each.dropped)} choices dropped, the whole network was not faster with them"
    return text


def _print(each: Tuning) -> None:
    """Cases with more than one row that could run them."""
    print(_title(each))
    lines = [
        {
            "layers": len(record["layers"]),
            "case": record["case"],
            "us": ", ".join(f"{_variant(name)} {us:.4g}" for name, us in record["us"].items()),
            "default": _variant(record["default"]),
            "winner": _variant(record["winner"]),
            "gain": f"{record['gain']:.2f}",
            "left out": [f"{_variant(name)}: {why}" for name, why in record["left_out"].items()],
        }
        for record in each.records()
        if len(record["us"]) + len(record["left_out"]) > 1
    ]
    if not any(line["left out"] for line in lines):
        lines = [{name: value for name, value in line.items() if name != "left out"} for line in lines]
    show(lines, View.table, ("layers", "gain"))


def _variant(kernel: str) -> str:
    return kernel.rpartition(".")[2]
