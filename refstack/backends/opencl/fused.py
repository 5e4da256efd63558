"""A run of steps as one launch, on devices that keep all its groups running at once.

One buffer holds every array and every weight; a table says for each call which function (walk.cl), where its arrays
lie, its arguments (calls.py). The functions are the kernels' own text (program.py), so the bits are those of the steps
one by one. Groups meet only where a call hangs on what others have done since the last meeting. On GPUs an addition is
done by the convolution before it, when its last call is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyopencl as cl

from refstack.backends import Step, heap
from refstack.backends.opencl import segment
from refstack.backends.opencl.calls import ALIGNED, STEP, UNIT, Kind, Layout
from refstack.backends.opencl.program import program
from refstack.backends.opencl.segment import Runtime
from refstack.errors import ResourceError
from refstack.formats import Array

MOST = 512
"""Work-items of all groups that a compute unit of a GPU holds at once: 128 registers for each."""
PATIENCE, BRIEF = 1 << 23, 1 << 16
"""Looks at the counter before a group gives up: PATIENCE of walk.cl, and in a trial."""
CALM, CALM_BRIEF = 1 << 25, 1 << 20
"""The same in spans, where a look gives the processor to whoever waits for it: 10 s and more, and a part of one."""


class Walk:
    """Steps that one launch runs, on so many compute units; 0: by one group."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Array], units: int, timed: bool = False) -> None:
        self.runtime = segment.runtime()
        self.queue = self.runtime.queue(timed)
        self.layout = layout = Layout(steps, outputs)
        kinds: dict[Kind, int] = {}
        for call in layout.calls:
            kinds.setdefault(call.kind, len(kinds))
        self.kernel = self.runtime.walk("#define TIMED 1\n" * timed + program(layout, kinds))
        patience, brief = (CALM, CALM_BRIEF) if layout.spans else (PATIENCE, BRIEF)
        with segment.explained("memory for the steps"):
            most = units if layout.spans else units * MOST // layout.items
            self.groups = resident(self.runtime, self.kernel, max(1, most), layout.items, brief)
            self.memory = self._memory()
            self.table = layout.table(kinds, self.groups)
            self.stamps = self.runtime.buffer(8 * (len(self.table) + 1))
            self.head = np.zeros(layout.head, np.uint8)
            self.missed = self.head[:UNIT].view(np.int32)
            self.held = _arm(self.runtime, self.queue, self.kernel, self.memory, self.table, self.memory, self.stamps,
                             patience)  # fmt: skip

    def _memory(self) -> cl.Buffer:
        """The one buffer, with all weights. In spans it is the host's, on large pages, and weights move there."""
        layout = self.layout
        if layout.spans:
            memory, host = self.runtime.hosted(layout.size)
            for start, step, name in layout.constant:
                old = step.packed[name]
                step.packed[name] = host[start : start + old.nbytes].view(old.dtype).reshape(old.shape)
                step.packed[name][...] = old
                del old
                heap.trim()  # what is free, or all weights would be there twice for a moment
            return memory
        memory = self.runtime.buffer(layout.size)
        for start, step, name in layout.constant:
            if step.packed[name].nbytes:
                cl.enqueue_copy(self.queue, memory, step.packed[name], dst_offset=start)
        return memory

    def run(self) -> None:
        """Inputs to the device (one alone is read where it lies), one launch, counters and outputs back, one wait.

        Raises      ResourceError       a group waited in vain for the others
        """
        with segment.explained("a run"):
            for start, array in self.layout.incoming:
                cl.enqueue_copy(self.queue, self.memory, array, dst_offset=start, is_blocking=False)
            if self.layout.given is not None:
                given = self.runtime.lent(self.layout.given)
                self.kernel.set_arg(7, given)
            self.event = cl.enqueue_nd_range_kernel(
                self.queue, self.kernel, (self.groups * self.layout.items,), (self.layout.items,)
            )
            cl.enqueue_copy(self.queue, self.head, self.memory)
        if self.missed[0] or self.missed[1]:  # any() takes 2 us
            cl.enqueue_fill_buffer(self.queue, self.memory, np.int32(0), 0, UNIT)
            raise ResourceError(
                f"OpenCL: {self.groups} work-groups of one launch waited for each other in vain: they did not all run "
                "at once; use fewer --threads, or a machine with less other work"
            )
        for array, start in self.layout.outgoing:
            array[...] = self.head[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


def _arm(
    runtime: Runtime, queue: Any, kernel: Any, memory: Any, table: Any, met: Any, stamps: Any, patience: int
) -> Any:
    """Give a walk its arguments. The buffer that must live as long."""
    held = runtime.buffer(table.nbytes)
    cl.enqueue_copy(queue, held, table)
    cl.enqueue_fill_buffer(queue, met, np.int32(0), 0, UNIT)
    count, meetings = np.int32(len(table)), np.int32(table["wait"].sum())
    for i, argument in enumerate((memory, held, count, meetings, met, np.int32(patience), stamps, memory)):
        kernel.set_arg(i, argument)
    queue.finish()
    return held


def resident(runtime: Runtime, kernel: Any, groups: int, items: int, patience: int) -> int:
    """How many groups of a walk run at once: as many as asked for, or half as often halved. Found by a trial."""
    queue, met, unused = runtime.queue(False), runtime.buffer(UNIT), runtime.buffer(ALIGNED)
    while groups > 1:
        table = np.zeros(2, STEP)
        table["kind"], table["wait"] = -1, 1
        held = _arm(runtime, queue, kernel, unused, table, met, unused, patience)
        cl.enqueue_nd_range_kernel(queue, kernel, (groups * items,), (items,))
        missed = np.zeros(2, np.int32)
        cl.enqueue_copy(queue, missed, met)
        held.release()
        if not missed[1]:
            break
        groups //= 2
    return groups
