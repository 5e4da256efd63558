"""The command line: each verb is a thin wrapper over one public function.

    exit status     0 good   1 a check failed   2 usage or bad input   3 the environment lacks something asked for
                    4 partial: some bench cells failed   130 interrupted, the journal is kept
stdout carries the chosen format and nothing else; everything else goes to stderr. Nothing heavy is imported before a
verb runs, so that `refstack --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from refstack import __version__
from refstack.cli import data, look, make, measure, report, results, tune, verify
from refstack.errors import RefstackError


class Verbs(TyperGroup):
    """Turns a RefstackError into one message on stderr and its exit status."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except RefstackError as error:
            if ctx.params.get("debug"):
                raise
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            raise  # `| head` is no error
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            print(f"error: {error}; --debug shows where", file=sys.stderr)
            raise typer.Exit(2) from None
        except MemoryError:
            print("error: no memory left; use a smaller --batch or fewer --threads", file=sys.stderr)
            raise typer.Exit(3) from None


EPILOG = (
    "Exit status: 0 good, 1 a check failed, 2 usage or bad input, 3 the environment lacks something asked for, "
    "4 some bench cells failed, 130 interrupted (the journal is kept)."
)
app = typer.Typer(
    cls=Verbs,
    name="refstack",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"refstack {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Deep network compression measured across the stack: every timed output is checked."""


app.command()(measure.bench)
app.command()(report.report)
app.command()(measure.evaluate)
app.command()(measure.classify)
app.command()(tune.tune)
app.command()(make.compress)
app.command()(make.train)
app.command()(make.export)
app.command()(results.best)
app.command()(results.compare)
app.command()(results.check)
app.command()(results.merge)
app.command()(results.findings)
app.command()(look.points)
app.command()(look.kernels)
app.command()(look.devices)
app.command()(look.explain)
app.command()(verify.verify)
app.command()(look.doctor)
app.add_typer(data.app, name="data")


def main() -> None:
    """Entry point of the `refstack` command."""
    app()
