"""Verbs that bring or make files: compress, data fetch, data list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refstack.cli.options import Format, Model, View, say, show

app = typer.Typer(help="Data sets.", no_args_is_help=True)


def compress(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write (.safetensors).")],
    technique: Annotated[str, typer.Option("--technique", "-t", help="weight, channel, ternary, int8 or dense.")],
    level: Annotated[
        float | None, typer.Option("--level", help="How far: the technique's own measure, see docs.")
    ] = None,
    format: Format = View.table,
) -> None:
    """Compress a network in one shot and write it as a checkpoint."""
    from refstack import checkpoint
    from refstack.compression import compress as run
    from refstack.models import zoo

    graph = zoo.load(model)
    small = run(graph, technique, level)
    checkpoint.save(small, output)
    show(
        [
            {
                "file": str(output),
                "technique": technique,
                "stored_bytes": small.stored_bytes,
                "of": graph.stored_bytes,
                "ratio": graph.stored_bytes / small.stored_bytes,
                "nnz": small.nnz,
                "macs": small.macs,
                "sha256": small.sha256(),
            }
        ],
        format,
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="cifar10")] = "cifar10",
    source: Annotated[str | None, typer.Option("--from", help="Address or file instead of the official one.")] = None,
) -> None:
    """Download a data set (170 MB), or take a copy, and check it."""
    from refstack import datasets
    from refstack.errors import UsageError

    if name != "cifar10":
        raise UsageError(f"unknown data set {name!r}, wanted cifar10")
    path = datasets.fetch() if source is None else datasets.fetch(source)
    say("checked against the published checksum")
    print(path)


@app.command("list")
def listed(format: Format = View.table) -> None:
    """Data sets and where they are."""
    from refstack import datasets

    found = datasets.find()
    how = None if found else "refstack data fetch cifar10"
    show([{"name": "cifar10", "path": str(found) if found else None, "get": how}], format)
