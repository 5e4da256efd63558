"""`verify`: every kernel on drawn problems, in a process that may die, and the proof that the checker can fail.

examine     one problem -> Finding      in_process (soft guards), or Examiner (a child with guard pages and a deadline)
verdict     problems until the first fault, which is then made as small as it gets
verify      a verdict for every row, recorded; all PASS become INCONCLUSIVE if a wrong kernel got away
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from refstack.backends import BACKENDS, NAMES, backend, plugin
from refstack.errors import UsageError
from refstack.kernels import Kernel
from refstack.verification import records
from refstack.verification.cases import Choose, Problem, Seeded, parse_problem
from refstack.verification.choices import Recorder, Replay, Small, simpler
from refstack.verification.examiner import Examiner, Finding, in_process
from refstack.verification.fills import fills
from refstack.verification.harness import THREADS, attempt, draw
from refstack.verification.layers import real_problems
from refstack.verification.saboteurs import Saboteur, honest_row, saboteurs

State = Literal["PASS", "FAIL", "INCONCLUSIVE", "SKIP", "CRASH", "TIMEOUT"]
Examine = Callable[[Kernel, Problem], Finding]

LEAST = 5
"""Telling problems below which a row that found no fault is INCONCLUSIVE."""

SHRINK_S, SMALL_TRIES = 8.0, 25
"""How long a failing problem is tried simpler; how many small problems of each size are tried for it."""


@dataclass(frozen=True)
class Profile:
    """How much is examined: problems drawn for each row, and whether the networks' own layers at full size are too."""

    examples: int
    layers: bool = False


PROFILES = {"quick": Profile(36), "full": Profile(300, layers=True)}


@dataclass(frozen=True)
class Verdict:
    """What is known about one kernel.

    cases, compared     problems examined, output elements held to the contract
    worst, rms          largest error in units of the bound; largest root mean square error in units of the plain loop's
    reason              in words, unless it passed
    case, seed          the smallest problem that was seen to fail; `verify --kernel .. --case .. --seed ..` repeats it
    """

    kernel: str
    state: State
    cases: int = 0
    compared: int = 0
    worst: float = 0.0
    rms: float = 0.0
    reason: str = ""
    case: str = ""
    seed: int | None = None
    seconds: float = 0.0


def problems(row: Kernel, count: int, seed: int) -> list[Problem]:
    """`count` problems for a row (fewer if it refuses nearly all), its fills and families in turn.

    Fills that it cannot have are left out: impulses, of a row that wants many weights. The same for the same seed.
    """
    name = zlib.crc32(row.name.encode())
    every = fills(row.op, row.format)
    words = [word for word in every if draw(row, Seeded(seed, name), word)] or every
    drawn = (
        draw(row, Seeded(seed, i, name), words[i % len(words)], i + i // len(words)) for i in range(count)
    )  # fmt: skip
    return [problem for problem in drawn if problem is not None]


def verdict(
    row: Kernel, examples: int = 36, seed: int = 0, examine: Examine = in_process,
    given: Iterable[Problem] | None = None, more: Iterable[Problem] = (),
    explain: Callable[[Kernel, Problem], str] | None = None,
) -> Verdict:  # fmt: skip
    """Examine one row until the first fault.

    Args        given       problems to examine instead of `examples` drawn ones
                more        problems to examine behind the drawn ones
                explain     asked about the smallest problem that fails
    """
    start, cases, telling, compared, worst, rms = time.perf_counter(), 0, 0, 0, 0.0, 0.0

    def made(state: State, reason: str = "", at: Problem | None = None) -> Verdict:
        case, where = (at.word, at.seed) if at else ("", None)
        return Verdict(row.name, state, cases, compared, worst, rms, reason, case, where, time.perf_counter() - start)

    listed = problems(row, examples, seed) if given is None else list(given)
    for problem in (*listed, *more):
        cases += 1
        found = examine(row, problem)
        compared, telling = compared + found.compared, telling + found.telling
        worst, rms = max(worst, found.worst), max(rms, found.rms)
        if found.state != "PASS":
            smallest, found = shrink(row, problem, found, examine)
            told = explain(row, smallest) if explain and found.state == "FAIL" else ""
            return made(found.state, f"{found.reason}; {told}" if told else found.reason, smallest)
    if telling < min(LEAST, examples, len(listed) if given is not None else LEAST) or not compared:
        what = f"{cases} problems were accepted, {telling} of them telling, and {compared} values compared"
        return made("INCONCLUSIVE", f"{what}: that proves little")
    return made("PASS")


def shrink(row: Kernel, problem: Problem, found: Finding, examine: Examine) -> tuple[Problem, Finding]:
    """The simplest problem that still fails in the same way, as far as a few seconds of trying show.

    First small problems at random, since a fault that a large one shows is mostly there in a small one; then, choice by
    choice, whatever the smallest failing problem can do without.
    """
    if found.state == "TIMEOUT":  # every further try would take as long
        return problem, found
    deadline = time.monotonic() + SHRINK_S

    def fails(choose: Choose, fill: str) -> tuple[Problem, Finding] | None:
        recorder = Recorder(choose)
        candidate = attempt(row, recorder, fill)
        if candidate is None or _size(candidate) > _size(problem):
            return None
        again = examine(row, candidate)
        return (replace(candidate, trail=tuple(recorder.trail)), again) if again.state == found.state else None

    words = [word for word in dict.fromkeys(("integer", problem.fill)) if word in fills(row.op, row.format)]
    smalls = (
        fails(Small(most, i), word) for most in (1, 2, 3, 4) for word in words for i in range(SMALL_TRIES)
        if time.monotonic() < deadline
    )  # fmt: skip
    problem, found = next(filter(None, smalls), (problem, found))
    place, progress = 0, bool(problem.trail)
    while progress:
        progress = False
        for at, trail in simpler(problem.trail, place):
            if time.monotonic() > deadline:
                return problem, found
            if (less := fails(Replay(trail), problem.fill)) and (_size(less[0]), less[0].trail) < (
                _size(problem),
                problem.trail,
            ):
                (problem, found), place, progress = less, at, True
                break
    return problem, found


def _size(problem: Problem) -> int:
    """Numbers in the inputs and the output."""
    return sum(math.prod(shape) for shape in (*problem.case.inputs, problem.case.shape))


def sensitivity(seed: int = 0, examples: int = 40, examine: Examine | None = None) -> tuple[list[str], int]:
    """(saboteurs that got away, number of saboteurs); a right kernel that is refused counts as one that got away.

    Each must be caught in the way that is meant for it: a harness that crashes on everything has caught nothing.
    """
    if examine is None:
        with Examiner() as examiner:
            return sensitivity(seed, examples, examiner)
    wrong = saboteurs()
    missed = [each.name for each in wrong if not _caught(each, seed, examples, examine)]
    if _first_fault(honest_row(), seed, examples, examine) != "PASS":
        missed.append("honest")
    return missed, len(wrong)


def _caught(saboteur: Saboteur, seed: int, examples: int, examine: Examine) -> bool:
    return _first_fault(saboteur.row, seed, examples, examine) == saboteur.caught


def _first_fault(row: Kernel, seed: int, examples: int, examine: Examine) -> str:
    states = (examine(row, problem).state for problem in problems(row, examples, seed))
    return next((state for state in states if state != "PASS"), "PASS")


def verify(
    kernels: str | Sequence[str] = "*",
    seed: int = 0,
    examples: int | None = None,
    backends: Sequence[str] | None = None,
    *,
    profile: str = "quick",
    case: str | None = None,
    threads: Sequence[int] = THREADS,
    plugins: Sequence[str | Path] = (),
    report: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """A verdict for every row whose name matches a glob in `kernels`, one SKIP for a backend that cannot run here.

    What is known of refstack's own kernels afterwards is recorded (records.py): that they failed, or that they passed
    at least what `quick` asks.

    Args        examples    problems for each row, instead of the profile's
                backends    all, if None; none, if plug-ins are given
                profile     quick (36 problems a row) or full (300, and every layer of the three networks at full size)
                case        one problem's word (op.format:shapes@fill) instead of drawn ones; `seed` fills its arrays
                threads     counts that must give the same bits; the first is the one that is held to the reference
                plugins     manifests of kernels of your own (docs/plugins.md)
                report      is told every verdict as soon as it is known
    Returns     in the order of the registry; all PASS become INCONCLUSIVE if a saboteur got away
    Raises      UsageError  no kernel has such a name, no such profile, a word that is no case, a manifest that is none
    """
    if profile not in PROFILES:
        raise UsageError(f"verify: profile {profile!r}, wanted one of {', '.join(PROFILES)}")
    if not threads or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in threads):
        raise UsageError(f"verify: threads {list(threads)}, wanted whole numbers of at least 1")
    problem = parse_problem(case, seed) if case is not None else None
    skipped, rows = _rows(kernels, backends, plugins)
    if problem is not None:
        rows = [row for row in rows if (row.op, row.format) == (problem.case.op.name, problem.case.format)]
        if not rows:
            raise UsageError(f"verify: no kernel that {kernels!r} names takes {problem.case.word}")
    for skip in skipped:
        report(skip)
    chosen = PROFILES[profile] if examples is None else Profile(examples)
    failed = _failed(rows)
    jobs: SimpleQueue[Examiner] = SimpleQueue()
    count = 2 if len(rows) > 1 else 1

    def judge(row: Kernel) -> Verdict:
        examiner = jobs.get()
        try:
            found = _judge(row, problem, chosen, seed, examiner, failed.get(row.name, ()))
        finally:
            jobs.put(examiner)
        report(found)
        return found

    examiners = [Examiner(threads, plugins) for _ in range(count)]
    try:
        for each in examiners:
            jobs.put(each)
        with ThreadPoolExecutor(count) as pool:
            verdicts = [*skipped, *pool.map(judge, rows)]
        missed, total = sensitivity(seed, examine=examiners[0])
    finally:
        for each in examiners:
            each.close()
    if missed:
        doubt = f"checker sensitivity {total - len(missed)}/{total}: {', '.join(missed)} got away"
        verdicts = [replace(v, state="INCONCLUSIVE", reason=doubt) if v.state == "PASS" else v for v in verdicts]
    whole = problem is None and chosen.examples >= PROFILES["quick"].examples and set(THREADS) <= set(threads)
    records.keep(verdicts, "full" if chosen.layers else "quick", whole)
    return verdicts


def _rows(
    kernels: str | Sequence[str], backends: Sequence[str] | None, plugins: Sequence[str | Path]
) -> tuple[list[Verdict], list[Kernel]]:
    """SKIP for backends that cannot run here, and the rows of that name, plug-ins first."""
    skipped: list[Verdict] = []
    rows = [plugin.kernel(path) for path in plugins]
    for name in (() if plugins else BACKENDS) if backends is None else backends:
        reason = backend(name).unavailable()
        if reason:
            skipped.append(Verdict(f"*.{name}.*", "SKIP", reason=reason))
        else:
            rows += backend(name).kernels()
    globs = [kernels] if isinstance(kernels, str) else kernels
    rows = [row for row in rows if any(fnmatchcase(row.name, glob) for glob in globs)]
    if not rows and not skipped:
        raise UsageError(f"no kernel is called {kernels!r}; `refstack kernels` lists them")
    return skipped, rows


def _failed(rows: Sequence[Kernel]) -> dict[str, tuple[Problem]]:
    """Kernel -> the problem that it is recorded to have failed on: whatever else is drawn, it must pass that."""
    used = {row.backend for row in rows}.intersection(NAMES)
    known = {kernel: record for name in used for kernel, record in records.read(name).items() if record.case}
    return {kernel: (parse_problem(record.case, record.seed or 0),) for kernel, record in known.items()}


def _judge(
    row: Kernel, problem: Problem | None, profile: Profile, seed: int, examine: Examiner, failed: tuple[Problem, ...]
) -> Verdict:
    if problem is not None:
        if reason := row.refusal(problem.case):
            return Verdict(row.name, "SKIP", reason=f"does not take this case: {reason}")
        return verdict(row, examine=examine, given=[problem], explain=examine.explain)
    layers = real_problems(row, seed) if profile.layers else ()
    return verdict(row, profile.examples, seed, examine, more=(*failed, *layers), explain=examine.explain)
