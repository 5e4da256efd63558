"""Run one kernel on one problem the way an adversary would, and judge it.

Every array lies between guard pages, flush with its end in one call and with its start in the next, so that reading or
writing one number too far ends the process; inputs and packed weights may only be read; output and scratch hold
garbage, other garbage the second time; the same buffers get other inputs between two calls; other thread counts and
addresses, and an output in an input's place where the row allows that, must give the same bits. In a process that must
live (a test's) the guards are soft: margins that are compared afterwards.
Next: verdicts.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from refstack.backends import Step, backend
from refstack.backends.guarded import Guarded, Place
from refstack.compare import WORSE, WORSE_BY, Check, check, rms_check
from refstack.contract import Bound, bound
from refstack.formats import INTEGER, Array
from refstack.graph import Node
from refstack.kernels import Case, Kernel, Reorder, case_of, from_nchw, layout_shape, to_nchw
from refstack.memory import ALIGNMENT
from refstack.verification.cases import BLOCKS, Choose, First, Problem, Seeded
from refstack.verification.choices import Recorder
from refstack.verification.families import FAMILIES
from refstack.verification.fills import INDEPENDENT, WEIGHTED, fills, inputs_of, is_exact, node_of, problem_of

POISON = (0xFF, 0x55)
"""What outputs and scratch hold before a call (NaN and -1, then 3e+13 and 85): both calls must give the same bits."""

THREADS = (1, 2, 3)

SPLIT_SUMS = ("blas",)
"""Backends whose libraries split sums between threads as they like: the bound holds, equal bits do not."""

TRIES, LOOKS, SAME = 200, 40, 4
"""Draws after which a row is held to accept none, a family to hold none that it accepts, a chooser to repeat itself."""


@dataclass(frozen=True)
class Outcome:
    """What was found: `problem` is empty if all is well.

    compared    elements held to the contract       worst   largest error in units of the bound
    rms         largest root mean square error in units of the textbook loop's, 0 where it was not taken
    telling     whether a wrong kernel could have shown: the right answer is not one number everywhere
    """

    problem: str
    compared: int
    worst: float
    rms: float
    telling: bool
    case: Case


def float_mode() -> str:
    """In words how float arithmetic of this thread has been tampered with, or nothing.

    Code built with -ffast-math does so when it is merely loaded.
    """
    one = np.float32(1)
    if np.float32(1e-40) * one == 0:
        return "subnormal numbers are flushed to zero"
    if one + np.float32(2**-25) != 1 or one - np.float32(2**-26) != 1:
        return "float arithmetic no longer rounds to nearest"
    return ""


class Rig:
    """A kernel on buffers of its own, ready to be called again and again."""

    def __init__(
        self,
        row: Kernel,
        node: Node,
        case: Case,
        inputs: Sequence[Array],
        threads: int,
        place: Place = "soft",
        shared: int | None = None,
    ) -> None:
        """`shared` is the number of the input whose place the output takes."""
        self.source, self.target = row.layouts
        if isinstance(case.op, Reorder):
            self.source, self.target = case.op.source, case.op.target
        self.case, self.problem, self.spreads = case, "", row.nonfinite == "spreads"
        self.inputs = [Guarded(layout_shape(self.source, x.shape), x.dtype, place) for x in inputs]
        self.shared = shared
        self.output = (
            Guarded(layout_shape(self.target, case.shape), np.dtype(case.output), place)
            if shared is None
            else self.inputs[shared]
        )
        self.scratch = Guarded((row.scratch(case),), np.uint8, place, ALIGNMENT)
        self.packed: dict[str, Guarded] = {}
        for name, array in row.pack(node, case).items():
            self.packed[name] = Guarded(array.shape, array.dtype, place)
            self.packed[name].array[...] = array
            self.packed[name].lock()
        packed = {name: each.array for name, each in self.packed.items()}
        step = Step(node, case, row, tuple(x.array for x in self.inputs), self.output.array, packed, self.scratch.array)
        self.run = backend(row.backend).lower((step,), threads)
        if mode := float_mode():
            self._report(f"{mode} since the kernel was loaded; was it built with -ffast-math?")

    def call(self, inputs: Sequence[Array], poison: int) -> Array:
        """The nchw output for these inputs. What the kernel did besides stands in `problem`."""
        for place, x in zip(self.inputs, inputs, strict=True):
            place.lock(False)
            place.array[...] = from_nchw(x, self.source)
            place.lock(place is not self.output)
        kept = {f"input {i}": x for i, x in enumerate(self.inputs) if i != self.shared} | self.packed
        before = {name: each.bytes() for name, each in kept.items()}
        if self.shared is None:
            self.output.poison(poison)
        self.scratch.poison(poison)
        self.run()
        for name, each in kept.items():
            if each.bytes() != before[name]:
                self._report(f"{name} was written to")
        for name, each in {**kept, "output": self.output, "scratch": self.scratch}.items():
            if not each.intact:
                self._report(f"bytes beside {name} were written to")
        if mode := float_mode():
            self._report(f"{mode} since the call")
        y = np.array(to_nchw(self.output.array, self.target, self.case.shape))
        whole = from_nchw(y, self.target)
        if whole.tobytes() != self.output.bytes():
            differs = (whole != self.output.array) & ~np.isnan(whole)
            if not self.spreads or (differs & np.isfinite(self.output.array)).any():
                self._report(f"the lanes that {self.target} adds are not zero")
        return y

    def _report(self, problem: str) -> None:
        self.problem = self.problem or problem


def accepts(row: Kernel, case: Case) -> bool:
    """Whether the planner may give this case to this row: it refuses nothing, and vectors only ever use nchw."""
    vectors_in, vectors_out = any(len(shape) == 2 for shape in case.inputs), len(case.shape) == 2
    blocked_in, blocked_out = (layout != "nchw" for layout in row.layouts)
    return row.refusal(case) is None and not (vectors_in and blocked_in) and not (vectors_out and blocked_out)


def real_case(problem: Problem) -> tuple[Node, Case]:
    """The node with its weights, and the case as the planner would name it (with the density that was drawn)."""
    node, asked = node_of(problem), problem.case
    dtype = np.int8 if asked.format in INTEGER else np.float32
    return node, case_of(node, asked.inputs, dtype, np.dtype(asked.output).type)


@cache
def families(row: Kernel) -> tuple[str, ...]:
    """The families of cases of which this row accepts some."""
    found = []
    for name, family in FAMILIES[row.op].items():
        choose = Seeded(0)
        drawn = (family(choose, row.blocks or BLOCKS) for _ in range(LOOKS))
        if any(accepts(row, problem_of(choose, *each, row.format).case) for each in drawn):
            found.append(name)
    return tuple(found)


def attempt(row: Kernel, choose: Choose, fill: str | None = None) -> Problem | None:
    """One problem of the families that suit the row, or None if the row does not accept it."""
    word = fill or choose.among(fills(row.op, row.format))
    largest = word == "largest" and "deepest" in families(row)
    family = FAMILIES[row.op][choose.among(("deepest",) if largest else families(row))]
    problem = problem_of(choose, *family(choose, row.blocks or BLOCKS), row.format, word)
    return problem if accepts(row, problem.case) and accepts(row, real_case(problem)[1]) else None


def draw(row: Kernel, choose: Choose, fill: str | None = None, family: int | None = None) -> Problem | None:
    """A problem that the row accepts, or None if none of TRIES was, or if one was drawn time after time: whoever always
    makes the simplest choice, as hypothesis does at first, is refused the same problem for ever.

    Args        family  number of the family to try first, all around the row's; needs a fill
    """
    refused: list[list[int]] = []
    for i in range(TRIES if families(row) else 0):
        recorder = Recorder(choose if family is None or i >= TRIES // 2 else First(family, choose))
        problem = attempt(row, recorder, fill)
        if problem is not None:
            return replace(problem, trail=tuple(recorder.trail))
        refused.append(recorder.trail)
        if refused[-SAME:] == [recorder.trail] * SAME:
            return None
    return None


@np.errstate(all="ignore")  # infinity minus infinity is a fill, not an accident
def examine(row: Kernel, problem: Problem, threads: Sequence[int] = THREADS, hard: bool = False) -> Outcome:
    """Everything that one problem can tell about a kernel.

    Args        hard    guard pages, which end this process where a kernel leaves its buffers
    """
    node, case = real_case(problem)
    judge = Judge(row, problem, node, case)
    draws = [inputs_of(problem), inputs_of(problem, change=1)]
    places: tuple[Place, ...] = ("end", "start") if hard else ("soft",)

    rig, found, results = Rig(row, node, case, draws[0], threads[0], places[0]), "", []
    for draw, poison in ((0, POISON[0]), (1, POISON[1]), (0, POISON[1])):
        results.append(rig.call(draws[draw], poison))
        found = found or rig.problem or judge.fault(draw, draws[draw], results[-1])
    if not found and results[0].tobytes() != results[2].tobytes():
        found = "a second call with the same inputs gives other bits: it depends on what output or scratch held before"
    for i, count in enumerate(threads[1:], 1):
        other = Rig(row, node, case, draws[0], count, places[i % len(places)])
        y = other.call(draws[0], POISON[0])
        found = found or other.problem or judge.fault(0, draws[0], y)
        if not found and row.backend not in SPLIT_SUMS and y.tobytes() != results[0].tobytes():
            found = f"{count} threads give other bits than {threads[0]}"
    for i in _may_share(row, case) if not found else ():
        for count in (threads[0], threads[-1]):
            rig = Rig(row, node, case, draws[0], count, places[0], shared=i)
            y = rig.call(draws[0], POISON[0])
            found = found or rig.problem
            if not found and y.tobytes() != results[0].tobytes():
                found = f"in the place of input {i} it gives other bits: it reads what it has written over"
    return judge.outcome(found)


def _may_share(row: Kernel, case: Case) -> list[int]:
    """Inputs whose place the planner may give to the output."""
    wanted = (layout_shape(row.layouts[1], case.shape), case.output)
    held = [
        (layout_shape(row.layouts[0], shape), "int8" if case.format == "int8" else "float32") for shape in case.inputs
    ]
    return [i for i, each in enumerate(held) if each == wanted] if row.in_place else []


class Judge:
    """Holds outputs of one problem to the contract, and remembers what that said."""

    def __init__(self, row: Kernel, problem: Problem, node: Node, case: Case) -> None:
        self.row, self.problem, self.node, self.case = row, problem, node, case
        self.bounds: dict[tuple[int, str], Bound] = {}
        self.checks: list[Check] = []
        self.rms = 0.0

    def fault(self, draw: int, inputs: Sequence[Array], y: Array) -> str:
        """In words what is wrong with an output for this draw of the inputs, or nothing."""
        allowed = self._bound(draw, inputs, self.row.algorithm)
        if self.row.nonfinite == "spreads" and self.problem.fill == "special":
            y = np.where(np.isfinite(y), y, allowed.value).astype(y.dtype)  # may be so anywhere; must be so where R is
        verdict = check(self.node, tuple(inputs), y, self.row.name, self.case.word, allowed)
        self.checks.append(verdict)
        if verdict.problem or verdict.worst > 1:  # nothing compared (all sums may overflow) is not wrong
            return verdict.finding.rstrip(".")
        if self.row.exact and is_exact(self.problem):
            return _unequal(y, allowed.value.astype(np.float32))
        if self.problem.fill in INDEPENDENT and isinstance(self.case.op, WEIGHTED) and not allowed.exact:
            worse = WORSE_BY.get(self.row.algorithm, WORSE)
            found = rms_check(self.node, inputs[0], y, self._bound(draw, inputs, "direct"), worse=worse)
            self.rms = max(self.rms, found.ratio)
            if found.compared and not found.passed:
                return f"the error is {found.ratio:.3g} times the textbook loop's (rms), allowed are {found.limit:g}"
        return ""

    def outcome(self, found: str) -> Outcome:
        """All of it in one."""
        worst, compared = (
            max((each.worst for each in self.checks), default=0.0),
            sum(each.compared for each in self.checks),
        )
        return Outcome(found, compared, worst, self.rms, bool(compared) and self._telling(), self.case)

    def _bound(self, draw: int, inputs: Sequence[Array], algorithm: str) -> Bound:
        """What this draw allows; T2 takes the textbook loop's S ("direct"), whatever the kernel's."""
        if (draw, algorithm) not in self.bounds:
            self.bounds[draw, algorithm] = bound(self.node, tuple(inputs), algorithm)
        return self.bounds[draw, algorithm]

    def _telling(self) -> bool:
        """At least two different numbers, and not nearly all of them zeros."""
        value = self.bounds[0, self.row.algorithm].value
        return bool(value.size == 1 or (np.unique(value).size > 1 and np.count_nonzero(value) * 10 > value.size))


def _unequal(y: Array, wanted: Array) -> str:
    """In words where y differs from the only float32 answer (a zero's sign does not count), or nothing."""
    wrong = ~(y == wanted)
    if not wrong.any():
        return ""
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    count = f"{int(wrong.sum())} of {y.size} exact values are wrong"
    return f"{count}, the first at {where}: got {y[where]!r}, wanted {wanted[where]!r}"
