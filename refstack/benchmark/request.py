"""What a caller asked for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from refstack.backends import BACKENDS, NAMES, backend, prepare
from refstack.benchmark.report import Report
from refstack.compression import ROUNDING, TECHNIQUES
from refstack.errors import BackendUnavailable, UsageError
from refstack.models import zoo

DEFAULT = ("dense", "weight", "channel", "ternary", "ternary+int8", "int8")
"""Techniques of the default table."""


def names(what: str, asked: Sequence[str] | str | None, known: Sequence[str], paths: bool = False) -> list[str]:
    """What was asked for, once each and in that order; all that is known if nothing was.

    Args        paths   a file's path will do as well
    """
    asked = [asked] if isinstance(asked, str) else asked
    found = list(dict.fromkeys(asked)) if asked is not None else list(known)
    for name in found:
        if name not in known and not (paths and (Path(name).suffix or len(Path(name).parts) > 1)):
            near = get_close_matches(name.lower(), known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"unknown {what} {name!r}: {hint}wanted {', '.join(known)}")
    if not found:
        raise UsageError(f"no {what} named, wanted at least one of {', '.join(known)}")
    return found


def techniques(asked: Sequence[str] | str | None, models: Sequence[str]) -> list[str]:
    """Those asked for: a technique, or the name of a trained point of these models without the model's; either with
    +int8 or +half behind it."""
    words = {name.partition("/")[2] for point in zoo.points() if point.model in models for name in point.names}
    words |= {f"{word}+{last}" for word in {*TECHNIQUES, *words} for last in ROUNDING}
    for word in [asked] if isinstance(asked, str) else asked or ():
        if word not in words:
            names("technique", [word], list(TECHNIQUES))
    return names("technique", asked, list(DEFAULT) if asked is None else [*TECHNIQUES, *words])


def usable_backends(asked: Sequence[str] | str | None, report: Report) -> list[str]:
    """Those asked for, every one of which must run here; else those that do, without baselines."""
    wanted = names("backend", BACKENDS if asked is None else asked, NAMES)
    for name in wanted:
        prepare(name, report.note)
    why = {name: backend(name).unavailable() for name in wanted}
    for name, reason in why.items():
        if reason and asked is not None:
            raise BackendUnavailable(f"backend {name}: {reason}")
        if reason:
            report.note(f"backend {name} is left out: {reason}")
    return [name for name, reason in why.items() if reason is None]


def thread_counts(asked: Sequence[int] | int | None, allowed: int, report: Report) -> list[int]:
    """1 and 2 as far as allowed; more than that only if it was asked for."""
    if asked is None:
        return [n for n in (1, 2) if n <= allowed]
    counts = list(dict.fromkeys(whole("threads", n) for n in ([asked] if isinstance(asked, int) else asked)))
    if not counts:
        raise UsageError("threads: none named, wanted whole numbers of at least 1, for example 1,2")
    if max(counts) > allowed:
        report.note(f"{max(counts)} threads asked for, this process may use {allowed} CPUs: they will share them")
    return counts


def whole(what: str, value: int) -> int:
    """A whole number of at least 1, or UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{what}: got {value!r}, wanted a whole number of at least 1")
    return value
