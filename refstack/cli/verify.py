"""The verb that says whether kernels are right: verify."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refstack.cli.options import Device, Format, View, numbers, say, show, words
from refstack.errors import UsageError

if TYPE_CHECKING:
    from refstack.verification import Verdict


NUMBERS = ("cases", "compared", "worst", "rms", "seconds")


def verify(
    kernel: Annotated[str, typer.Option("--kernel", "-k", help="Glob over op.format.backend.variant.")] = "*",
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="quick (a minute), full (some ten), soak (until --minutes are over).")
    ] = "quick",
    case: Annotated[str | None, typer.Option("--case", help="One problem's word, as a failure prints it.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the problems drawn; with --case, of its arrays.")] = 0,
    threads: Annotated[str, typer.Option("--threads", help="Thread counts that must give the same bits.")] = "1,2,3",
    plugin: Annotated[
        list[Path] | None, typer.Option("--plugin", help="Manifest of a kernel of your own; may be repeated.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Check a whole network, layer by layer, instead of kernels.")
    ] = None,
    technique: Annotated[str, typer.Option("--technique", "-t", help="With --model: how it is compressed.")] = "dense",
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="Only these, separated by commas.")] = None,
    examples: Annotated[int | None, typer.Option("--examples", help="Problems a kernel, not the profile's.")] = None,
    minutes: Annotated[float, typer.Option("--minutes", help="How long to soak.")] = 60.0,
    device: Device = None,
    format: Format = View.table,
) -> None:
    """Hold kernels against the reference: drawn problems, guard pages, and wrong kernels that must be caught."""
    from dataclasses import asdict

    from refstack.backends import rows

    asked, counts = words(backend), numbers(threads, "--threads") or []
    if asked is not None:
        rows(asked)  # a backend asked for by name must run here
    if model is not None:
        return _network(model, technique, asked, counts, format)
    verdicts = _soak(minutes, kernel, seed, asked, counts, plugin or []) if profile == "soak" else _verify(
        kernel, seed, examples, asked, profile, case, counts, plugin or []
    )  # fmt: skip
    hidden = ("reason", "case", "seed") if format is View.table else ()  # said below, at length
    show([{k: v for k, v in asdict(each).items() if k not in hidden} for each in verdicts], format, NUMBERS)
    states = [verdict.state for verdict in verdicts]
    say(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) + f" with seed {seed}")
    for verdict in verdicts:
        if verdict.case:
            more = "".join(f" --plugin {shlex.quote(str(path))}" for path in plugin or [])
            at = f"--kernel {verdict.kernel} --case {shlex.quote(verdict.case)} --seed {verdict.seed}"
            say(f"to see it again: refstack verify {at}{more}")
    if set(states) - {"PASS", "SKIP"} or "PASS" not in states:
        raise typer.Exit(1)
    return None


def _verify(
    kernel: str, seed: int, examples: int | None, backends: list[str] | None, profile: str, case: str | None,
    threads: list[int], plugins: list[Path],
) -> list[Verdict]:  # fmt: skip
    from refstack.verification import verify as run
    from refstack.verification.saboteurs import saboteurs

    done: list[Verdict] = []

    def report(verdict: Verdict) -> None:
        done.append(verdict)
        if verdict.state != "PASS":
            say(f"{verdict.kernel}: {verdict.state}: {verdict.reason}")

    found = run(
        kernel, seed, examples, backends, profile=profile, case=case, threads=threads, plugins=plugins, report=report
    )
    blind = [verdict.reason for verdict in found if verdict.reason.startswith("checker sensitivity")]
    count = len(saboteurs())
    say(
        blind[0]
        if blind
        else f"checker sensitivity {count}/{count}: so many kernels that are wrong on purpose were caught"
    )
    return found


def _soak(
    minutes: float, kernel: str, seed: int, backends: list[str] | None, threads: list[int], plugins: list[Path]
) -> list[Verdict]:
    """quick with one seed after the other, until time is over or something does not pass."""
    import time
    from dataclasses import replace

    if not 0 < minutes < 1e6:
        raise UsageError(f"--minutes: got {minutes:g}, wanted more than 0")
    end, total = time.monotonic() + 60 * minutes, dict[str, "Verdict"]()
    while True:
        for verdict in _verify(kernel, seed, None, backends, "quick", None, threads, plugins):
            before = total.get(verdict.kernel)
            total[verdict.kernel] = verdict if before is None else replace(
                verdict, cases=before.cases + verdict.cases, compared=before.compared + verdict.compared,
                worst=max(before.worst, verdict.worst), rms=max(before.rms, verdict.rms),
                seconds=before.seconds + verdict.seconds,
            )  # fmt: skip
        if time.monotonic() > end or {each.state for each in total.values()} - {"PASS", "SKIP"}:
            return list(total.values())
        seed += 1
        say(f"seed {seed}")


def _network(model: str, technique: str, backends: list[str] | None, threads: list[int], format: View) -> None:
    """Every step of a network's plan on its own inputs against its own bound, then the end-to-end error."""
    from refstack.backends import BACKENDS
    from refstack.planner import usable
    from refstack.verification import verify_model

    able = [name for name, reason in usable(BACKENDS).items() if reason is None]
    found = verify_model(model, technique, backends or able, threads[0] if threads else 1)
    show(
        [
            {
                "layer": layer.name, "kernel": layer.kernel, "compared": layer.compared, "skipped": layer.skipped,
                "error / bound": layer.worst, "passed": layer.passed,
            }
            for layer in found.check.layers
        ],
        format,
    )  # fmt: skip
    say(
        f"end to end: logits up to {found.check.logit_scale:.4g} differ from float64 by {found.check.logit_error:.3g}; "
        f"the float32 reference differs by {found.reference_error:.3g}"
    )
    if not found.check.passed:
        say(f"failed: {found.check.problem}")
        raise typer.Exit(1)
