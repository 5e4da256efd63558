"""Verbs that bring data: data fetch, data list."""

from __future__ import annotations

from typing import Annotated

import typer

from refstack.cli.options import Format, View, say, show

app = typer.Typer(help="Data sets.", no_args_is_help=True)


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
