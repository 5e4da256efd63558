"""A run of steps as one launch, on devices that keep all its groups running at once.

One buffer holds every array and every weight; a table says for each call which function (walk.cl), where its arrays
lie, its arguments. The functions are the kernels' own text (rs.cl), so the bits are those of the steps one by one.
Groups meet only where a call reads what another has written since the last meeting: every output has a place of its
own here. An addition is done by the convolution before it, when its last call is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyopencl as cl

from refstack.backends import Step
from refstack.backends.opencl import segment
from refstack.backends.opencl.packing_gpu import ITEMS, WALK_MACS
from refstack.backends.opencl.segment import ARGS, Launch, Runtime
from refstack.formats import Array

PLACES = 13
UNIT = 16
"""Bytes that an offset counts."""
ALIGNED = 256
STEP = np.dtype([("kind", np.int32), ("wait", np.int32), ("shift", np.int32), ("at", np.int32, PLACES), ("a", ARGS)])
"""rs_step of walk.cl, field for field."""
TABLE_BYTES = 64 << 10
"""Constant memory that every device has."""
MOST = 512
"""Work-items of all groups that a compute unit holds at once: 128 registers for each."""
JOINING = ("conv2d_dense_tile",)
"""Sources that can add another layer's output on the way."""
PATIENCE, BRIEF = 1 << 23, 1 << 16
"""Looks at the counter before a group gives up: PATIENCE of walk.cl, and in a trial."""

Kind = tuple[str, tuple[tuple[str, int], ...], str]
"""Source, constants, function."""


@dataclass(frozen=True)
class Call:
    """One line of the table.

    at      offsets of the arrays that the function is given    reads, writes   those among them that hang on others
    work    work-items that it could use    items   of a group, 0: any
    """

    kind: Kind
    at: tuple[int, ...]
    reads: frozenset[int]
    writes: frozenset[int]
    args: Any
    work: int
    items: int
    room: int


def walkable(steps: Sequence[Step]) -> bool:
    """Whether a walk can do them and pays: written for it, their table fits, launches would not hide."""
    calls = [call for step in steps for call in segment.launches(step)]
    macs = sum(step.case.op.macs(*step.case.inputs) * (2 if _sparse(step) else 1) for step in steps)
    fits = len(calls) * STEP.itemsize <= TABLE_BYTES and macs < WALK_MACS * len(calls)
    return fits and all(isinstance(call, Launch) and call.walks for call in calls)


def _sparse(step: Step) -> bool:
    """Whether a step takes longer by itself than its multiply-adds say, and does better with groups of its own."""
    return any(isinstance(call, Launch) and call.source == "conv2d_csr_gpu" for call in segment.launches(step))


class Layout:
    """Where everything lies in the one buffer, and the calls that work on it."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Array]) -> None:
        self.size = 0
        self.current: dict[int, int] = {}  # address on the host -> offset of its newest value
        self.incoming: list[tuple[int, Array]] = []
        self.constant: list[tuple[int, Array]] = []
        self.calls: list[Call] = []
        self.only: set[int] = set()  # outputs that are read once
        readers = _readers(steps, outputs)
        for i, step in enumerate(steps):
            self._step(step, readers[i])
        self.outgoing = [(array, self.current[array.ctypes.data]) for array in segment.last(outputs)]
        self.room = max([4, *(call.room for call in self.calls)])
        self.items = max(call.items for call in self.calls) or ITEMS

    def place(self, nbytes: int) -> int:
        """Room for so many bytes."""
        start = self.size
        self.size += -(-max(nbytes, 1) // ALIGNED) * ALIGNED
        return start

    def _input(self, array: Array) -> int:
        if array.ctypes.data not in self.current:
            self.current[array.ctypes.data] = self.place(array.nbytes)
            self.incoming.append((self.current[array.ctypes.data], array))
        return self.current[array.ctypes.data]

    def _step(self, step: Step, only: bool) -> None:
        inputs = [self._input(x) for x in step.inputs]
        args = segment.arguments(step)
        output = self.place(step.output.nbytes)
        if step.case.op.name == "add" and (joined := self._join(inputs, output, int(args["activation"]))):
            self.calls.append(joined)
            self.current[step.output.ctypes.data] = output
            return
        own = [self.place(array.nbytes) for array in step.packed.values()]
        self.constant += zip(own, step.packed.values(), strict=True)
        scratch = [self.place(step.scratch.nbytes)] if step.scratch.size else []
        for launch in segment.launches(step):
            assert isinstance(launch, Launch), "walkable said so"
            constants = tuple(sorted(launch.defines(step.case).items()))
            able = launch.source in JOINING  # one function for those that do and those that do not: less to fetch
            kind = (launch.source, (*constants, ("JOINED", 1)) if able else constants, launch.function or launch.source)
            last = launch.then(step.case) is None
            call = Call(
                kind, (*inputs, output, *own, *scratch, *[output] * able), frozenset([*inputs, *scratch]),
                frozenset([output] if last else scratch), args, launch.size(step.case)[0],
                0 if launch.group else launch.items(step.case)[0], launch.room(step.case),
            )  # fmt: skip
            self.calls.append(call)
        self.only |= {output} if only else set()
        self.current[step.output.ctypes.data] = output

    def _join(self, inputs: list[int], output: int, activation: int) -> Call | None:
        """The convolution's last call, which then also adds, if nobody else reads its output; else None."""
        for i in range(len(self.calls) - 1, -1, -1):
            call = self.calls[i]
            made = next(iter(call.writes & set(inputs)), None)
            if (
                made not in self.only
                or call.kind[0] not in JOINING
                or inputs[0] == inputs[1]
                or call.args["joined"] >= 0
            ):
                continue
            other = inputs[1 - inputs.index(made)]
            args = call.args.copy()
            args["joined"] = activation
            at = (*(output if each == made else each for each in call.at[:-1]), other)
            del self.calls[i]
            return replace(call, at=at, args=args, reads=call.reads | {other}, writes=frozenset([output]))
        return None

    def table(self, kinds: Mapping[Kind, int], groups: int) -> Any:
        """The lines as walk.cl reads them."""
        lines = np.zeros(len(self.calls), STEP)
        fresh: set[int] = set()
        used = 0
        for line, call in zip(lines, self.calls, strict=True):
            line["kind"], line["a"] = kinds[call.kind], call.args
            line["at"][: len(call.at)] = [place // UNIT for place in call.at]
            if call.reads & fresh:
                line["wait"], used, fresh = 1, 0, set()
            line["shift"] = used % groups
            used += -(-call.work // self.items)
            fresh |= call.writes
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


def program(calls: Sequence[Call], kinds: Mapping[Kind, int], room: int, items: int) -> str:
    """The text of `walk`: every source once for each set of constants, its functions numbered, and the switch."""
    parts = ["#define RS_WALK 1", segment.text("walk")]
    bodies: dict[tuple[str, tuple[tuple[str, int], ...]], dict[str, str]] = {}
    for (source, constants, function), number in kinds.items():
        bodies.setdefault((source, constants), {})[function] = f"step_{number}"
    for (source, constants), functions in bodies.items():
        names = {**dict(constants), **functions}
        parts += [f"#define {name} {value}" for name, value in names.items()]
        parts += [segment.file_text(source), *(f"#undef {name}" for name in names)]
    counts = {call.kind: len(call.at) for call in calls}
    cases = "\n".join(_case(number, counts[kind]) for kind, number in kinds.items())
    parts.append(_WALK.replace("CASES", cases).replace("SHARED", str(room)).replace("WIDTH", str(items)))
    return "\n".join(parts)


def _case(number: int, count: int) -> str:
    arrays = ", ".join(f"AT({i})" for i in range(count))
    return f"            case {number}: step_{number}({arrays}, steps[i].a, group, groups, room); break;"


_WALK = """
#undef ROOM
#line 1 "walk"
#define AT(j) ((__global void *)(memory + 16 * (size_t)steps[i].at[j]))
__kernel __attribute__((reqd_work_group_size(WIDTH, 1, 1)))
void walk(__global uchar *memory, __constant const rs_step *steps, const int count, const int meetings,
          volatile __global int *met, const int patience, __global ulong *times) {
    __local float room[SHARED] __attribute__((aligned(16)));
    const int groups = get_num_groups(0);
    int goal = 0;
    for (int i = 0; i < count; i++) {
        if (steps[i].wait) rs_meet(met, goal += groups, patience);
        STAMP(i)
        int group = (int)get_group_id(0) - steps[i].shift;
        if (group < 0) group += groups;
        switch (steps[i].kind) {
CASES
        }
    }
    STAMP(count)
    rs_part(met, groups * (meetings + 1));
}
"""


class Walk:
    """Steps that one launch runs, on so many compute units; 0: by one group."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Array], units: int, timed: bool = False) -> None:
        self.runtime = segment.runtime()
        self.queue = self.runtime.queue(timed)
        self.layout = layout = Layout(steps, outputs)
        kinds: dict[Kind, int] = {}
        for call in layout.calls:
            kinds.setdefault(call.kind, len(kinds))
        text = program(layout.calls, kinds, layout.room, layout.items)
        self.kernel = self.runtime.walk("#define TIMED 1\n" * timed + text)
        with segment.explained("memory for the steps"):
            self.memory, self.met = self.runtime.buffer(layout.size), self.runtime.buffer(UNIT)
            for start, array in layout.constant:
                if array.nbytes:
                    cl.enqueue_copy(self.queue, self.memory, array, dst_offset=start)
            self.groups = resident(self.runtime, self.kernel, max(1, units * MOST // layout.items), layout.items)
            self.table = layout.table(kinds, self.groups)
            self.stamps = self.runtime.buffer(8 * (len(self.table) + 1))
            self.held = _arm(self.runtime, self.queue, self.kernel, self.memory, self.table, self.met, self.stamps)

    def run(self) -> None:
        """Inputs to the device, one launch, outputs back, one wait."""
        with segment.explained("a run"):
            for start, array in self.layout.incoming:
                cl.enqueue_copy(self.queue, self.memory, array, dst_offset=start, is_blocking=False)
            self.event = cl.enqueue_nd_range_kernel(
                self.queue, self.kernel, (self.groups * self.layout.items,), (self.layout.items,)
            )
            for array, start in self.layout.outgoing:
                cl.enqueue_copy(self.queue, array, self.memory, src_offset=start)


def _arm(
    runtime: Runtime, queue: Any, kernel: Any, memory: Any, table: Any, met: Any, stamps: Any, patience: int = PATIENCE
) -> Any:
    """Give a walk its arguments. The buffer that must live as long."""
    held = runtime.buffer(table.nbytes)
    cl.enqueue_copy(queue, held, table)
    cl.enqueue_fill_buffer(queue, met, np.int32(0), 0, UNIT)
    count, meetings = np.int32(len(table)), np.int32(table["wait"].sum())
    for i, argument in enumerate((memory, held, count, meetings, met, np.int32(patience), stamps)):
        kernel.set_arg(i, argument)
    queue.finish()
    return held


def resident(runtime: Runtime, kernel: Any, groups: int, items: int) -> int:
    """How many groups of a walk run at once: as many as asked for, or half as often halved. Found by a trial."""
    queue, met, unused = runtime.queue(False), runtime.buffer(UNIT), runtime.buffer(ALIGNED)
    while groups > 1:
        table = np.zeros(2, STEP)
        table["kind"], table["wait"] = -1, 1
        held = _arm(runtime, queue, kernel, unused, table, met, unused, BRIEF)
        cl.enqueue_nd_range_kernel(queue, kernel, (groups * items,), (items,))
        missed = np.zeros(2, np.int32)
        cl.enqueue_copy(queue, missed, met)
        held.release()
        if not missed[1]:
            break
        groups //= 2
    return groups
