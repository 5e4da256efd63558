"""The table of a walk: which calls a run of steps makes, where their arrays lie in one buffer, when all groups meet.

The buffer starts with the counters of walk.cl and the outputs, which one copy brings back. Then
    on GPUs         a place of its own for every output, so that groups meet only where a call reads what is fresh
    in spans        places as in the plan's arena, an array after another: what is written stays in caches
and all weights. A walk in spans (RS_ALONE) is for processors: its groups are of one work-item, and each takes some
neighbours of every call's. Next: program.py, fused.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refstack.backends import Step
from refstack.backends.opencl import segment
from refstack.backends.opencl.packing_gpu import ITEMS, WALK_MACS
from refstack.backends.opencl.segment import ARGS, Launch
from refstack.formats import Array

PLACES = 13
UNIT = 16
"""Bytes that an offset counts."""
GIVEN = -UNIT
"""Where an array lies that a walk in spans reads where the host has it."""
ALIGNED = 256
STEP = np.dtype(
    [("kind", np.int32), ("wait", np.int32), ("shift", np.int32), ("items", np.int32, 3), ("at", np.int32, PLACES),
     ("a", ARGS)]
)  # fmt: skip
"""rs_step of walk.cl, field for field."""
TABLE_BYTES = 64 << 10
"""Constant memory that every device has."""
JOINING = ("conv2d_dense_tile",)
"""Sources that can add another layer's output on the way."""

Kind = tuple[str, tuple[tuple[str, int], ...], str]
"""Source, constants, function."""


@dataclass(frozen=True)
class Call:
    """One line of the table.

    at      offsets of the arrays that the function is given    reads, writes   those among them that hang on others
    work    work-items that it could use    items   of a group, 0: any      size    work-items of a call in spans
    """

    kind: Kind
    at: tuple[int, ...]
    reads: frozenset[int]
    writes: frozenset[int]
    args: Any
    work: int
    items: int
    room: int
    size: tuple[int, ...] = ()


def walkable(steps: Sequence[Step]) -> bool:
    """Whether a walk can do them and pays: written for it, their table fits; on GPUs launches would not hide."""
    calls = [(call, step.case) for step in steps for call in segment.launches(step)]
    if len(calls) * STEP.itemsize > TABLE_BYTES:
        return False
    if not all(isinstance(call, Launch) and call.walks for call, _ in calls):
        return False
    if in_spans(steps):
        return all(isinstance(call, Launch) and call.group and not call.room(case) for call, case in calls)
    macs = sum(step.case.op.macs(*step.case.inputs) * (2 if _sparse(step) else 1) for step in steps)
    return macs < WALK_MACS * len(calls)


def _sparse(step: Step) -> bool:
    """Whether a step takes longer by itself than its multiply-adds say, and does better with groups of its own."""
    return any(isinstance(call, Launch) and call.source == "conv2d_csr_gpu" for call in segment.launches(step))


def in_spans(steps: Sequence[Step]) -> bool:
    """Whether some are written for groups of one work-item: then a walk has no others."""
    return any(isinstance(call, Launch) and call.alone for step in steps for call in segment.launches(step))


class Layout:
    """Where everything lies in the one buffer, and the calls that work on it."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Array]) -> None:
        self.spans = in_spans(steps)
        self.size = 0
        self.counters = self.place(UNIT)
        self.current: dict[int, int] = {}  # address on the host -> offset of its newest value
        self.incoming: list[tuple[int, Array]] = []
        self.constant: list[tuple[int, Step, str]] = []
        self.calls: list[Call] = []
        self.only: set[int] = set()  # outputs that are read once
        final = {array.ctypes.data: self.place(array.nbytes) for array in segment.last(outputs)}
        self.head = self.size
        """Bytes of counters and outputs."""
        self.shared = self._shared(steps) if self.spans else {}
        outside = segment.once(segment.read_first(steps))
        self.given = outside[0] if self.spans and len(outside) == 1 else None  # as nearly always: the network's input
        if self.given is not None:
            self.current[self.given.ctypes.data] = GIVEN
        writers = {step.output.ctypes.data: i for i, step in enumerate(steps)}
        readers = _readers(steps, outputs)
        for i, step in enumerate(steps):
            at = step.output.ctypes.data
            self._step(step, readers[i], final[at] if at in final and writers[at] == i else self._room(step.output))
        self.outgoing = [(array, final[array.ctypes.data]) for array in segment.last(outputs)]
        self.room = max([4, *(call.room for call in self.calls)])
        self.items = 1 if self.spans else max(call.items for call in self.calls) or ITEMS

    def place(self, nbytes: int) -> int:
        """Room for so many bytes."""
        start = self.size
        self.size += -(-max(nbytes, 1) // ALIGNED) * ALIGNED
        return start

    def _shared(self, steps: Sequence[Step]) -> dict[int, int]:
        """A place for every one of the plan's arena that an array starts at: two that share it never overlap in use."""
        arrays = [array for step in steps for array in (*step.inputs, step.output, step.scratch)]
        return {array.ctypes.data: self.place(array.nbytes) for array in segment.once(arrays)}

    def _room(self, array: Array) -> int:
        shared = self.shared.get(array.ctypes.data)
        return self.place(array.nbytes) if shared is None else shared

    def _input(self, array: Array) -> int:
        if array.ctypes.data not in self.current:
            self.current[array.ctypes.data] = self._room(array)
            self.incoming.append((self.current[array.ctypes.data], array))
        return self.current[array.ctypes.data]

    def _step(self, step: Step, only: bool, output: int) -> None:
        inputs = [self._input(x) for x in step.inputs]
        args = segment.arguments(step)
        if step.case.op.name == "add" and (joined := self._join(inputs, output, int(args["activation"]))):
            self.calls.append(joined)
            self.current[step.output.ctypes.data] = output
            return
        own = [self.place(array.nbytes) for array in step.packed.values()]
        self.constant += [(start, step, name) for start, name in zip(own, step.packed, strict=True)]
        scratch = [self._room(step.scratch)] if step.scratch.size else []
        launches = [each for each in segment.launches(step) if segment.wanted(each, step.case)]
        for launch in launches:
            assert isinstance(launch, Launch), "walkable said so"
            constants = tuple(sorted(launch.defines(step.case).items()))
            able = launch.source in JOINING  # one function for those that do and those that do not: less to fetch
            kind = (launch.source, (*constants, ("JOINED", 1)) if able else constants, launch.function or launch.source)
            size = launch.size(step.case)
            call = Call(
                kind, (*inputs, output, *own, *scratch, *[output] * able), frozenset([*inputs, *scratch]),
                frozenset([output] if launch is launches[-1] else scratch), args, size[0],
                0 if launch.group else launch.items(step.case)[0], launch.room(step.case), size if launch.alone else (),
            )  # fmt: skip
            self.calls.append(call)
        self.only |= {output} if only else set()
        self.current[step.output.ctypes.data] = output

    def _join(self, inputs: list[int], output: int, activation: int) -> Call | None:
        """The convolution's last call, which then also adds, if nobody else reads its output; else None."""
        for i in range(len(self.calls) - 1, -1, -1):
            call = self.calls[i]
            made = next(iter(call.writes & set(inputs)), None)
            able = call.kind[0] in JOINING and call.args["joined"] < 0
            if made not in self.only or not able or inputs[0] == inputs[1]:
                continue
            other = inputs[1 - inputs.index(made)]
            args = call.args.copy()
            args["joined"] = activation
            at = (*(output if each == made else each for each in call.at[:-1]), other)
            del self.calls[i]
            return replace(call, at=at, args=args, reads=call.reads | {other}, writes=frozenset([output]))
        return None

    def table(self, kinds: Mapping[Kind, int], groups: int) -> Any:
        """The lines as walk.cl reads them. What a call reads must not be fresh; what it writes, nobody's yet."""
        lines = np.zeros(len(self.calls), STEP)
        written: set[int] = set()  # since the last meeting
        read: set[int] = set()
        used = 0
        for line, call in zip(lines, self.calls, strict=True):
            line["kind"], line["a"], line["items"] = kinds[call.kind], call.args, call.size or 0
            line["at"][: len(call.at)] = [place // UNIT for place in call.at]
            if call.reads & written or call.writes & (written | read):
                line["wait"], used, written, read = 1, 0, set(), set()
            line["shift"] = 0 if self.spans else used % groups
            used += -(-call.work // self.items)
            written |= call.writes
            read |= call.reads
        return lines


def _readers(steps: Sequence[Step], outputs: Sequence[Array]) -> list[bool]:
    """For each step whether its output is read just once, and only here."""
    kept = {array.ctypes.data for array in outputs}
    found = []
    for i, step in enumerate(steps):
        at, count = step.output.ctypes.data, 0
        for later in steps[i + 1 :]:
            count += sum(x.ctypes.data == at for x in later.inputs)
            if later.output.ctypes.data == at:
                break
        else:
            count += at in kept
        found.append(count == 1)
    return found
