"""What verbs share: options, and how results are printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refstack.errors import UsageError

if TYPE_CHECKING:
    from refstack.graph import Graph

Model = Annotated[str, typer.Argument(help="vgg16, resnet18, mobilenet, a point (vgg16/weight-0.9), or a file.")]
Technique = Annotated[str, typer.Option("--technique", "-t", help="dense, weight, weight-0.8, channel, ternary ..")]
OneShot = Annotated[bool, typer.Option("--one-shot", help="Compress here, without training, whatever was trained.")]
Backend = Annotated[
    str | None, typer.Option("--backend", "-b", help="openmp, opencl, blas or numpy; default: the best that runs here.")
]
Tuned = Annotated[bool, typer.Option("--tuning/--no-tuning", help="Use the kernels that `refstack tune` chose here.")]
Threads = Annotated[int, typer.Option("--threads", help="Threads of one run.")]


def _device(name: str | None) -> str | None:
    """For this process and its children."""
    if name is not None:
        os.environ["REFSTACK_DEVICE"] = name
    return name


Device = Annotated[
    str | None,
    typer.Option(
        "--device", callback=_device, help="Of OpenCL: cpu, gpu, or part of a name that `refstack devices` lists."
    ),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder or archive of images; default: what `refstack data fetch` got.")
]


class View(str, Enum):
    """How results are printed."""

    table = "table"
    json = "json"


Format = Annotated[View, typer.Option("--format", "-f", help="What goes to stdout.")]


def words(text: str | None) -> list[str] | None:
    """A comma list; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str | None, option: str) -> list[int] | None:
    """A comma list of whole numbers."""
    try:
        return None if text is None else [int(word) for word in words(text) or []]
    except ValueError:
        raise UsageError(f"{option}: got {text!r}, wanted whole numbers, for example 1,2") from None


def network(model: str, technique: str, one_shot: bool) -> Graph:
    """A network under a technique, with weights that mean something."""
    from refstack.compression.trained import under
    from refstack.errors import DataError
    from refstack.models import zoo

    graph, point = under(model, zoo.load(model), technique, one_shot)
    if graph.meta.get("technique") == "drawn" and point is not None:
        raise DataError(f"{point.name}: its weights are not shipped, only its structure and accuracy (refstack points)")
    return graph


def best_backend(asked: str | None) -> str:
    """The one named, else the fastest that can run here; said if that is not the fastest of all."""
    from refstack.backends import BACKENDS
    from refstack.planner import usable

    if asked is not None:
        return asked
    reasons = usable(BACKENDS)
    for name, reason in reasons.items():
        if reason is None:
            return name
        say(f"backend {name} is left out: {reason}")
    return BACKENDS[-1]


def say(text: str) -> None:
    """A line for the reader, not for the next program."""
    print(text, file=sys.stderr)


def show(records: Sequence[Mapping[str, Any]], view: View, right: Sequence[str] = ()) -> None:
    """Print records: JSON, or a table whose columns are the keys of the first.

    Args        right   columns of numbers
    """
    if view is View.json:
        from refstack.benchmark.rows import strict

        print(json.dumps(strict(list(records)), allow_nan=False, indent=1))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in records[0] if records else ():
        table.add_column(name.replace("_", " "), justify="right" if name in right else "left", overflow="fold")
    for record in records:
        table.add_row(*(_text(value) for value in record.values()))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)


def _text(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        value = [f"{key} {_text(each)}" for key, each in value.items()]
    return escape("\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def data_set(path: Path | None) -> Path:
    """The one named, else the one that was fetched."""
    from refstack import datasets

    found = path or datasets.find()
    if found is None:
        raise UsageError(
            f"no data set: nothing in {datasets.data_dir()}; get it with `refstack data fetch cifar10`, or name a "
            "folder or archive with --data"
        )
    return found
