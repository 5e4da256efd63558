"""Steps on a device: a buffer for every array, a program for every source, calls that are made once and only enqueued.

Two arrays that start at one address of the plan's arena are never in use at once, so they share a buffer; so do an
output and the input whose place it takes.
"""

from __future__ import annotations

import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyopencl as cl

from refstack.backends import Step, openmp
from refstack.backends.opencl import devices, probe
from refstack.errors import CheckFailed, CompileError, ResourceError
from refstack.formats import Array
from refstack.kernels import Case, Reorder
from refstack.memory import ALIGNMENT
from refstack.ops import Window

PATTERN = 0xA5
LEAST = 16
"""Bytes of the smallest buffer: none may be empty."""

NUMBERS = (
    *"nchwkpqrsg", "st0", "st1", "pd0", "pd1", "pd2", "pd3", "dl0", "dl1", "activation", "x_block", "y_block",
    "to_int8", "parts", "joined",
)  # fmt: skip
ARGS = np.dtype([(name, np.int32) for name in NUMBERS])
"""rs_args of rs.cl, field for field."""


@dataclass(frozen=True)
class Launch:
    """How a row's kernel is called: its `run`, or one of several that are called in order with the same arguments.

    source      file in accel/opencl        function    the kernel in it, if it is not called like its file
    size        case -> work-items in each dimension, a multiple of the group's; none in one: nothing is called
    group       work-items of a work-group; empty: the constant ITEMS
    defines     case -> constants of the source; few different ones, since each set is compiled
    parts       case -> pieces that its sums are split into     then        case -> what is called next, if anything
    room        case -> float32 numbers of local memory
    walks       written with RS_KERNEL or RS_ALONE for groups of any number, so that fused.py may call it
    alone       with RS_ALONE: work-items that are groups of their own

    The kernel's arguments are  inputs, y, the packed arrays in order (bias first), scratch if there is any, rs_args.
    """

    source: str
    size: Callable[[Case], tuple[int, ...]]
    group: tuple[int, ...] = (1,)
    defines: Callable[[Case], Mapping[str, int]] = field(default=lambda case: {})
    function: str = ""
    parts: Callable[[Case], int] = field(default=lambda case: 1)
    then: Callable[[Case], Launch | None] = field(default=lambda case: None)
    room: Callable[[Case], int] = field(default=lambda case: 0)
    walks: bool = False
    alone: bool = False

    def items(self, case: Case) -> tuple[int, ...]:
        """Work-items of a work-group."""
        return self.group or (self.defines(case)["ITEMS"],)

    def calls(self, case: Case) -> tuple[Launch, ...]:
        """This one and those that follow, all with the same arguments."""
        then = self.then(case)
        return (self, *then.calls(case)) if then else (self,)


class Call(Protocol):
    """What else may stand in a row's `run`: a library's call, which enqueues kernels of its own."""

    def bind(
        self, runtime: Runtime, queue: cl.CommandQueue, case: Case, given: Sequence[cl.Buffer]
    ) -> Callable[[], cl.Event]:
        """A function that enqueues it on these buffers: inputs, y, the packed arrays, scratch if there is any.

        Returns     the function; on a timed queue it gives something with an event's profile.start and profile.end
        """
        ...


class Runtime:
    """Context and programs of the chosen device."""

    def __init__(self, chosen: devices.Device) -> None:
        self.device = chosen
        os.environ[devices.SEATS] = devices.seats()
        found = [each for each in probe.every() if devices.Device(**probe.facts(each)).identity == chosen.identity]
        self.context = cl.Context(found[:1])
        self.simulated = chosen.kind == "other"  # a simulator watches buffers itself, and knows few instructions
        self.options = ["-cl-std=CL1.2"] + ["-cl-opt-disable"] * self.simulated
        self.programs: dict[tuple[str, tuple[tuple[str, int], ...]], cl.Program] = {}
        self.lock = threading.Lock()

    def queue(self, timed: bool) -> cl.CommandQueue:
        """In order; with `timed` its events can be asked for their times."""
        return cl.CommandQueue(self.context, properties=cl.command_queue_properties.PROFILING_ENABLE if timed else 0)

    def kernel(self, launch: Launch, case: Case) -> cl.Kernel:
        """A kernel object of its own, whose arguments are free. CompileError shows what the compiler said."""
        key = (launch.source, tuple(sorted(launch.defines(case).items())))
        with self.lock:
            if key not in self.programs:
                self.programs[key] = self._build(*key)
            return cl.Kernel(self.programs[key], launch.function or launch.source)

    def walk(self, content: str) -> cl.Kernel:
        """The kernel `walk` of a text that fused.py wrote."""
        key = (content, ())
        with self.lock:
            if key not in self.programs:
                registers = ["-cl-nv-maxrregcount=128"] if "NVIDIA" in self.device.platform else []
                self.programs[key] = self._compile("walk", content, registers)
            return cl.Kernel(self.programs[key], "walk")

    def _build(self, source: str, constants: tuple[tuple[str, int], ...]) -> cl.Program:
        return self._compile(source, text(source, constants), [])

    def _compile(self, source: str, content: str, options: list[str]) -> cl.Program:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", cl.CompilerWarning)  # some compilers tell how they vectorised
                return cl.Program(self.context, content).build([*self.options, *options])
        except cl.RuntimeError as error:
            lines = [line for line in str(error).splitlines() if "error" in line][1:] or str(error).splitlines()
            told = "\n".join(f"  {line}" for line in lines[:40])
            raise CompileError(f"{source}.cl does not compile for {self.device.label}:\n{told}") from None

    def buffer(self, nbytes: int) -> cl.Buffer:
        """Uninitialised memory of the device."""
        return cl.Buffer(self.context, cl.mem_flags.READ_WRITE, max(nbytes, LEAST))

    def lent(self, array: Array) -> cl.Buffer:
        """What the host has there now, to be read where it lies."""
        return cl.Buffer(self.context, cl.mem_flags.READ_ONLY | cl.mem_flags.USE_HOST_PTR, hostbuf=array)

    def hosted(self, nbytes: int) -> tuple[cl.Buffer, Array]:
        """The same where the host has it too, as bytes: on large pages, as NumPy makes them."""
        room = np.empty(nbytes + ALIGNMENT, np.uint8)
        host = room[-room.ctypes.data % ALIGNMENT :][:nbytes]
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR
        return cl.Buffer(self.context, flags, hostbuf=host), host


@cache
def runtime() -> Runtime:
    """The chosen device's."""
    return Runtime(devices.chosen())


def sources() -> Path:
    """The folder of OpenCL files, beside that of the C files."""
    return openmp.sources().parent / "opencl"


def text(source: str, constants: Sequence[tuple[str, int]] = ()) -> str:
    """What is compiled: rs.cl, the constants, the file with what it includes; lines are named as in the files."""
    head = [f"#define {name} {value}" for name, value in constants]
    return "\n".join([*head, file_text("rs"), file_text(source)])


_INCLUDE = re.compile(r'^#include "(\w+)\.cl"$', re.MULTILINE)


def file_text(name: str) -> str:
    """Its text with includes resolved here: runtimes disagree on where they look, and caches on what was included."""
    content = (sources() / f"{name}.cl").read_text("utf-8")

    def include(match: re.Match[str]) -> str:
        line = content.count("\n", 0, match.start()) + 2
        return f'{file_text(match[1])}\n#line {line} "{name}.cl"'

    return f'#line 1 "{name}.cl"\n' + _INCLUDE.sub(include, content)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """pyopencl's errors as refstack's."""
    try:
        yield
    except (MemoryError, cl.MemoryError, cl.RuntimeError, cl.LogicError) as error:
        told = str(error).splitlines()[0]
        raise ResourceError(f"OpenCL: {what} failed ({told}); use a smaller --batch, or another --device") from None


class _Memory:
    """Buffers by the address of the arrays that they stand for."""

    def __init__(self, owner: Runtime, arrays: Sequence[Array], guarded: bool) -> None:
        sizes: dict[int, int] = {}
        for array in arrays:
            sizes[array.ctypes.data] = max(array.nbytes, sizes.get(array.ctypes.data, 0))
        self.margin = max(owner.device.alignment, 1024) if guarded and not owner.simulated else 0
        self.whole = {at: owner.buffer(nbytes + 2 * self.margin) for at, nbytes in sizes.items()}
        self.sizes = sizes

    def of(self, array: Array) -> cl.Buffer:
        """The array's own bytes."""
        whole = self.whole[array.ctypes.data]
        if not self.margin:
            return whole
        return whole.get_sub_region(self.margin, max(self.sizes[array.ctypes.data], LEAST // 4))

    def mark(self, queue: cl.CommandQueue) -> None:
        """Write the pattern into all margins, if there are any: oclgrind takes what is filled for unwritten."""
        for whole in self.whole.values() if self.margin else ():
            cl.enqueue_fill_buffer(queue, whole, np.uint8(PATTERN), 0, whole.size)

    def intact(self, queue: cl.CommandQueue) -> bool:
        """Whether the pattern is still there."""
        for at, whole in self.whole.items():
            held = np.empty(whole.size, np.uint8)
            cl.enqueue_copy(queue, held, whole)
            before, after = held[: self.margin], held[self.margin + self.sizes[at] :]
            if (before != PATTERN).any() or (after != PATTERN).any():
                return False
        return True


class Segment:
    """Steps that are enqueued together."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Array] | None, timed: bool = False) -> None:
        self.steps, self.runtime, self.guarded = steps, runtime(), outputs is None
        self.queue = self.runtime.queue(timed)
        values = [array for step in steps for array in (*step.inputs, step.output)]
        scratch = [step.scratch for step in steps if step.scratch.size]
        with explained("memory for the steps"):
            self.memory = _Memory(self.runtime, [*values, *scratch], outputs is None)
            self.packed: list[tuple[cl.Buffer, Array]] = []
            self.given: list[Any] = []  # a kernel does not keep its arguments alive
            self.calls = [self._calls(step) for step in steps]
            self.queue.finish()
        written = [*(step.output for step in steps), *scratch]
        poisoned = [] if self.runtime.simulated else written  # a simulator is to see that nobody has written them yet
        incoming = [*read_first(steps), *poisoned] if outputs is None else read_first(steps)
        outgoing = written if outputs is None else outputs
        self.incoming = [(self.memory.of(array), array) for array in once(incoming)]
        self.outgoing = [(array, self.memory.of(array)) for array in (last(outgoing) if outputs else once(outgoing))]
        changed = {array.ctypes.data for array in written}
        self.kept = [(buffer, array) for buffer, array in self.incoming if array.ctypes.data not in changed]
        self.kept += [(buffer, array) for buffer, array in self.packed if array.nbytes]

    def _calls(self, step: Step) -> list[Callable[[], cl.Event]]:
        given: list[Any] = [*(self.memory.of(x) for x in step.inputs), self.memory.of(step.output)]
        for array in step.packed.values():
            given.append(self._weights(array))
            self.packed.append((given[-1], array))
        given += [self.memory.of(step.scratch)] if step.scratch.size else []
        return [self._bound(each, step, given) for each in launches(step) if wanted(each, step.case)]

    def _bound(self, each: Launch | Call, step: Step, given: list[Any]) -> Callable[[], cl.Event]:
        if isinstance(each, Launch):
            return self._call(step.case, each, [*given, arguments(step)])
        return each.bind(self.runtime, self.queue, step.case, given)

    def _weights(self, array: Array) -> cl.Buffer:
        """A packed array on the device; a processor reads it where it lies, on pages that NumPy made large."""
        if self.runtime.device.kind == "cpu" and not self.guarded and array.nbytes:
            return self.runtime.lent(array)
        buffer = self.runtime.buffer(array.nbytes)
        if array.nbytes:
            cl.enqueue_copy(self.queue, buffer, array)
        return buffer

    def _call(self, case: Case, launch: Launch, given: list[Any]) -> Callable[[], cl.Event]:
        kernel = self.runtime.kernel(launch, case)
        self.given += given
        for i, argument in enumerate(given):
            kernel.set_arg(i, argument)
        self._fits(kernel, math.prod(launch.items(case)), launch.source)
        return partial(cl.enqueue_nd_range_kernel, self.queue, kernel, launch.size(case), launch.items(case))

    def _fits(self, kernel: cl.Kernel, group: int, source: str) -> None:
        device = self.queue.device
        most = kernel.get_work_group_info(cl.kernel_work_group_info.WORK_GROUP_SIZE, device)
        local = kernel.get_work_group_info(cl.kernel_work_group_info.LOCAL_MEM_SIZE, device)
        if group > most or local > device.local_mem_size:
            raise ResourceError(
                f"{source}.cl: a work-group takes {group} work-items and {local} bytes of local memory, "
                f"{self.runtime.device.label} has {most} and {device.local_mem_size}; choose another --device"
            )

    def run(self) -> None:
        """Inputs to the device, all kernels, outputs back, one wait."""
        with explained("a run"):
            if self.guarded:
                self.memory.mark(self.queue)
            self._bring()
            for calls in self.calls:
                for call in calls:
                    call()
            self._fetch()
            if self.guarded:
                self._inspect()

    def _bring(self) -> None:
        for buffer, array in self.incoming:
            cl.enqueue_copy(self.queue, buffer, array, is_blocking=False)

    def _fetch(self) -> None:
        for array, buffer in self.outgoing:  # copies that wait are quicker than a wait behind them
            cl.enqueue_copy(self.queue, array, buffer)
        self.queue.finish()

    def _inspect(self) -> None:
        """What only the device's own memory shows."""
        if self.memory.margin and not self.memory.intact(self.queue):
            raise CheckFailed("bytes beside an array were written to on the device")
        for buffer, array in self.kept:
            held = np.empty_like(array)
            cl.enqueue_copy(self.queue, held, buffer)
            if held.tobytes() != array.tobytes():
                raise CheckFailed("an input or a weight was written to on the device")

    def times(self) -> list[int]:
        """ns of each step, by the device's clock."""
        with explained("a run"):
            self._bring()
            events = [[call() for call in calls] for calls in self.calls]
            self._fetch()
        return [sum(event.profile.end - event.profile.start for event in own) for own in events]


def launches(step: Step) -> tuple[Launch | Call, ...]:
    """All that a step calls, in order."""
    run: Launch | Call | tuple[Launch | Call, ...] = step.kernel.run
    found: list[Launch | Call] = []
    for each in run if isinstance(run, tuple) else (run,):
        found += each.calls(step.case) if isinstance(each, Launch) else [each]
    return tuple(found)


def wanted(each: Launch | Call, case: Case) -> bool:
    """Whether there is anything for it to do."""
    return not isinstance(each, Launch) or all(each.size(case))


def read_first(steps: Sequence[Step]) -> list[Array]:
    """Inputs that no step before has written: they come from outside."""
    written: set[int] = set()
    found: list[Array] = []
    for step in steps:
        found += [x for x in step.inputs if x.ctypes.data not in written]
        written.add(step.output.ctypes.data)
    return found


def once(arrays: Sequence[Array]) -> list[Array]:
    """One for each address, the largest."""
    found: dict[int, Array] = {}
    for array in arrays:
        if array.nbytes and array.nbytes > getattr(found.get(array.ctypes.data), "nbytes", 0):
            found[array.ctypes.data] = array
    return list(found.values())


def last(outputs: Sequence[Array]) -> list[Array]:
    """One for each address, the last that is written there: those before it are gone by then."""
    return list({array.ctypes.data: array for array in outputs}.values())


def arguments(step: Step) -> Any:
    """rs_args of a step."""
    case, op = step.case, step.case.op
    (n, c, h, w), (_, k, p, q) = ((*shape, 1, 1)[:4] for shape in (case.inputs[0], case.shape))
    args = np.zeros((), ARGS)
    for name, value in zip("nchwkpq", (n, c, h, w, k, p, q), strict=True):
        args[name] = value
    args["r"] = args["s"] = 1
    args["g"], args["to_int8"] = getattr(op, "groups", 1), step.output.dtype == np.int8
    own = (each.parts(case) for each in launches(step) if isinstance(each, Launch))
    args["joined"], args["parts"] = -1, next(own, 1)
    args["activation"] = openmp.ACTIVATIONS[getattr(op, "activation", None)]
    source, target = (op.source, op.target) if isinstance(op, Reorder) else step.kernel.layouts
    args["x_block"], args["y_block"] = openmp.lanes(source), openmp.lanes(target)
    if isinstance(op, Window):
        values = (*op.kernel, *op.stride, *op.padding, *op.dilation)
        names = ("r", "s", "st0", "st1", "pd0", "pd1", "pd2", "pd3", "dl0", "dl1")
        for name, value in zip(names, values, strict=True):
            args[name] = value
    return args[()]
