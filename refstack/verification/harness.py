"""Run one kernel on one problem the way an adversary would, and judge it.

Output and scratch hold garbage, and other garbage the second time; every array stands between margins that must keep
their bytes; inputs and packed weights must come back unchanged; the same buffers get other inputs between two calls;
other thread counts must give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from refstack.backends import Step, backend
from refstack.compare import Check, check
from refstack.formats import Array
from refstack.graph import Node
from refstack.kernels import Case, Kernel, Reorder, case_of, from_nchw, layout_shape, to_nchw
from refstack.memory import ALIGNMENT
from refstack.reference import layer
from refstack.verification.cases import BLOCKS, FAMILIES, Choose, Problem, Seeded
from refstack.verification.fills import fills, inputs_of, is_exact, node_of, problem_of

MARGIN = 4 * ALIGNMENT
"""Bytes on each side of an array that a kernel must leave alone."""

POISON = (0xFF, 0x55)
"""What outputs and scratch hold before a call (NaN and -1, then 3e+13 and 85): both calls must give the same bits."""

THREADS = (1, 2, 3)

SPLIT_SUMS = ("blas",)
"""Backends whose libraries split sums between threads as they like: the bound holds, equal bits do not."""

TRIES = 40
"""Draws after which a row is held to accept none."""


class Guarded:
    """An aligned array between two margins."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.generic] | type[np.generic]) -> None:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self.room = np.full(nbytes + 2 * MARGIN + ALIGNMENT, 0xA5, np.uint8)
        self.start = MARGIN + -(self.room.ctypes.data + MARGIN) % ALIGNMENT
        self.stop = self.start + nbytes
        self.array: Array = self.room[self.start : self.stop].view(dtype).reshape(shape)

    def poison(self, byte: int) -> None:
        self.room[self.start : self.stop] = byte

    @property
    def intact(self) -> bool:
        """Whether the margins hold what they held."""
        return bool((self.room[: self.start] == 0xA5).all() and (self.room[self.stop :] == 0xA5).all())

    def bytes(self) -> bytes:
        return self.room[self.start : self.stop].tobytes()


def guarded(values: Array) -> Guarded:
    """A guarded copy."""
    made = Guarded(values.shape, values.dtype)
    made.array[...] = values
    return made


@dataclass(frozen=True)
class Outcome:
    """What was found: `problem` is empty if all is well, `compared` counts elements held to the contract."""

    problem: str
    compared: int
    worst: float
    case: Case


class Rig:
    """A kernel on buffers of its own, ready to be called again and again."""

    def __init__(self, row: Kernel, node: Node, case: Case, inputs: Sequence[Array], threads: int) -> None:
        self.source, self.target = row.layouts
        if isinstance(case.op, Reorder):
            self.source, self.target = case.op.source, case.op.target
        self.case = case
        self.inputs = [Guarded(layout_shape(self.source, x.shape), x.dtype) for x in inputs]
        self.output = Guarded(layout_shape(self.target, case.shape), np.dtype(case.output))
        self.scratch = Guarded((row.scratch(case),), np.uint8)
        self.packed = {name: guarded(array) for name, array in row.pack(node, case).items()}
        packed = {name: each.array for name, each in self.packed.items()}
        step = Step(node, case, row, tuple(x.array for x in self.inputs), self.output.array, packed, self.scratch.array)
        self.run = backend(row.backend).lower((step,), threads)
        self.problem = ""

    def call(self, inputs: Sequence[Array], poison: int) -> Array:
        """The nchw output for these inputs. What the kernel did besides stands in `problem`."""
        for place, x in zip(self.inputs, inputs, strict=True):
            place.array[...] = from_nchw(x, self.source)
        kept = {f"input {i}": x for i, x in enumerate(self.inputs)} | self.packed
        before = {name: each.bytes() for name, each in kept.items()}
        self.output.poison(poison)
        self.scratch.poison(poison)
        self.run()
        for name, each in kept.items():
            if each.bytes() != before[name]:
                self._report(f"{name} was written to")
        for name, each in {**kept, "output": self.output, "scratch": self.scratch}.items():
            if not each.intact:
                self._report(f"bytes beside {name} were written to")
        if np.float32(1e-40) * np.float32(1) == 0:
            self._report("subnormal numbers are flushed to zero since the call")
        y = np.array(to_nchw(self.output.array, self.target, self.case.shape))
        if from_nchw(y, self.target).tobytes() != self.output.bytes():
            self._report(f"the channels that {self.target} adds are not zero")
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
    dtype = np.int8 if asked.format == "int8" else np.float32
    return node, case_of(node, asked.inputs, dtype, np.dtype(asked.output).type)


@cache
def families(row: Kernel) -> tuple[str, ...]:
    """The families of cases that this row mostly accepts, or at least sometimes."""
    share: dict[str, int] = {}
    for name, family in FAMILIES[row.op].items():
        choose = Seeded(0)
        drawn = [family(choose, row.blocks or BLOCKS) for _ in range(TRIES)]
        share[name] = sum(accepts(row, problem_of(choose, *each, row.format).case) for each in drawn)
    often = tuple(name for name, count in share.items() if count >= TRIES // 5)
    return often or tuple(name for name, count in share.items() if count)


def draw(row: Kernel, choose: Choose, fill: str | None = None) -> Problem | None:
    """A problem that the row accepts, or None if none of TRIES was."""
    for _ in range(TRIES if families(row) else 0):
        word = fill or choose.among(fills(row.op, row.format))
        largest = word == "largest" and "deep" in families(row)
        family = FAMILIES[row.op]["deep" if largest else choose.among(families(row))]
        problem = problem_of(choose, *family(choose, row.blocks or BLOCKS), row.format, word)
        if accepts(row, problem.case) and accepts(row, real_case(problem)[1]):
            return problem
    return None


@np.errstate(all="ignore")  # infinity minus infinity is a fill, not an accident
def examine(row: Kernel, problem: Problem, threads: Sequence[int] = THREADS) -> Outcome:
    """Everything that one problem can tell about a kernel."""
    node, case = real_case(problem)
    first, second = inputs_of(problem), inputs_of(problem, change=1)
    checks: list[Check] = []

    def fault(rig: Rig, inputs: Sequence[Array], y: Array) -> str:
        verdict = check(node, tuple(inputs), y, row.name, case.word)
        checks.append(verdict)
        wrong = verdict.problem or verdict.worst > 1  # nothing compared (all sums may overflow) is not wrong
        exact = _unequal(node, inputs, y) if row.exact and is_exact(problem) else ""
        return rig.problem or (str(verdict) if wrong else "") or exact

    rig, found, results = Rig(row, node, case, first, threads[0]), "", []
    for inputs, poison in ((first, POISON[0]), (second, POISON[1]), (first, POISON[1])):
        results.append(rig.call(inputs, poison))
        found = found or fault(rig, inputs, results[-1])
    if not found and results[0].tobytes() != results[2].tobytes():
        found = "a second call with the same inputs gives other bits: it depends on what output or scratch held before"
    for count in threads[1:]:
        other = Rig(row, node, case, first, count)
        y = other.call(first, POISON[0])
        found = found or fault(other, first, y)
        if not found and row.backend not in SPLIT_SUMS and y.tobytes() != results[0].tobytes():
            found = f"{count} threads give other bits than {threads[0]}"
    return Outcome(found, sum(each.compared for each in checks), max(each.worst for each in checks), case)


def _unequal(node: Node, inputs: Sequence[Array], y: Array) -> str:
    """In words where y differs from the only float32 answer (a zero's sign does not count), or nothing."""
    wanted = layer(node, *(x.astype(np.float64) for x in inputs)).astype(np.float32)
    wrong = ~(y == wanted)
    if not wrong.any():
        return ""
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    count = f"{int(wrong.sum())} of {y.size} exact values are wrong"
    return f"{count}, the first at {where}: got {y[where]!r}, wanted {wanted[where]!r}"
