"""`verify`: every kernel on drawn problems, and the proof that the checker can fail."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from refstack.backends import BACKENDS, backend
from refstack.errors import RefstackError, UsageError
from refstack.kernels import Kernel
from refstack.verification.cases import Problem, Seeded
from refstack.verification.fills import fills
from refstack.verification.harness import Outcome, draw, examine
from refstack.verification.saboteurs import honest, row, saboteurs

State = Literal["PASS", "FAIL", "INCONCLUSIVE", "SKIP", "CRASH"]

LEAST = 5
"""Problems below which a row that found no fault is INCONCLUSIVE."""


@dataclass(frozen=True)
class Verdict:
    """What is known about one kernel.

    reason      in words, unless it passed          case    the first problem that failed, with its fill and seed
    worst       largest error in units of the bound that was seen
    """

    kernel: str
    state: State
    cases: int = 0
    compared: int = 0
    worst: float = 0.0
    reason: str = ""
    case: str = ""
    seconds: float = 0.0


def problems(row: Kernel, count: int, seed: int) -> list[Problem]:
    """`count` problems for a row (fewer if it refuses nearly all), its fills in turn. The same for the same seed."""
    words = fills(row.op, row.format)
    drawn = (draw(row, Seeded(seed, i, zlib.crc32(row.name.encode())), words[i % len(words)]) for i in range(count))
    return [problem for problem in drawn if problem is not None]


def verdict(row: Kernel, examples: int, seed: int) -> Verdict:
    """Examine one row until the first fault."""
    start, cases, compared, worst = time.perf_counter(), 0, 0, 0.0

    def made(state: State, reason: str = "", case: str = "") -> Verdict:
        return Verdict(row.name, state, cases, compared, worst, reason, case, time.perf_counter() - start)

    for problem in problems(row, examples, seed):
        cases += 1
        try:
            outcome: Outcome = examine(row, problem)
        except RefstackError as error:
            return made("FAIL", str(error), str(problem))
        except Exception as error:  # a user's kernel may raise anything: that is a verdict, not the end of the sweep
            return made("CRASH", f"{type(error).__name__}: {error}", str(problem))
        compared, worst = compared + outcome.compared, max(worst, outcome.worst)
        if outcome.problem:
            return made("FAIL", outcome.problem, str(problem))
    if cases < min(LEAST, examples) or not compared:
        return made(
            "INCONCLUSIVE", f"{cases} problems were accepted and {compared} values compared, that proves little"
        )
    return made("PASS")


def sensitivity(seed: int = 0, examples: int = 40) -> tuple[list[str], int]:
    """(saboteurs that got away, number of saboteurs); a right kernel that is refused counts as one that got away.

    Only FAIL catches: a harness that crashes on everything has caught nothing.
    """
    wrong = saboteurs()
    missed = [each.variant for each in wrong if verdict(each, examples, seed).state != "FAIL"]
    if verdict(row(honest, "honest"), examples, seed).state != "PASS":
        missed.append("honest")
    return missed, len(wrong)


def verify(
    kernels: str = "*", seed: int = 0, examples: int = 18, backends: Sequence[str] | None = None
) -> list[Verdict]:
    """A verdict for every row whose name matches the glob `kernels`, one SKIP for a backend that cannot run here.

    Args        examples    problems for each row          backends    all, if None
    Returns     in the order of the registry; all PASS become INCONCLUSIVE if a saboteur got away
    Raises      UsageError  no kernel has such a name
    """
    verdicts: list[Verdict] = []
    for name in BACKENDS if backends is None else backends:
        reason = backend(name).unavailable()
        if reason:
            verdicts.append(Verdict(f"*.{name}.*", "SKIP", reason=reason))
            continue
        rows = [each for each in backend(name).kernels() if fnmatchcase(each.name, kernels)]
        verdicts += [verdict(each, examples, seed) for each in rows]
    if not verdicts:
        raise UsageError(f"no kernel is called {kernels!r}; `refstack kernels` lists them")
    missed, count = sensitivity(seed)
    if missed:
        doubt = f"checker sensitivity {count - len(missed)}/{count}: {', '.join(missed)} got away"
        return [Verdict(v.kernel, "INCONCLUSIVE", v.cases, v.compared, v.worst, doubt, "", v.seconds)
                if v.state == "PASS" else v for v in verdicts]  # fmt: skip
    return verdicts
