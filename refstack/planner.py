"""Graph + chosen kernels + packed weights + arena offsets. A plan only runs.

`plan` is one forward sweep: shapes, a kernel for every node, reorders where neighbours disagree on the layout, packed
weights, arena offsets from lifetimes, and segments (maximal runs of steps on one backend) lowered to one call each.
After that nothing is allocated, chosen or checked but x's shape.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from refstack import memory
from refstack.backends import Step, backend, heap, rows
from refstack.errors import ResourceError, ShapeError, UsageError
from refstack.formats import Array
from refstack.graph import INPUT, Graph, Node
from refstack.kernels import (
    Case,
    Choice,
    Kernel,
    Reorder,
    candidates,
    case_of,
    layout_block,
    layout_shape,
    of_images,
    same_bytes,
    select,
)
from refstack.models import zoo
from refstack.ops import Conv2d, Flatten, Shape


@dataclass
class Slot:
    """One array of the arena: a value in a layout. `owner` is the slot whose bytes it shares (itself, if none)."""

    index: int
    layout: str
    shape: Shape
    dtype: type[np.generic]
    owner: int

    @property
    def nbytes(self) -> int:
        """Bytes that the array takes."""
        return math.prod(layout_shape(self.layout, self.shape)) * np.dtype(self.dtype).itemsize


@dataclass
class Draft:
    """One step before its memory exists."""

    node: Node
    case: Case
    choice: Choice
    inputs: tuple[Slot, ...]
    output: Slot


@dataclass(frozen=True, eq=False)
class Plan:
    """A network ready to run on `batch` images with `threads` threads.

    part            images that go through all steps together, before the next ones do (`portion`)
    steps           kernel calls in order, reorders included; of one part, as are x and y
    choices         node name -> the kernel it got
    arena_bytes     activations and scratch          weight_bytes    packed weights
    lean            the network's own weights are gone where kernels have theirs: graph and steps lack them
    """

    graph: Graph
    batch: int
    part: int
    threads: int
    backends: tuple[str, ...]
    steps: tuple[Step, ...]
    choices: dict[str, Choice]
    arena_bytes: int
    weight_bytes: int
    x: Array
    y: Array
    segments: tuple[Callable[[], None], ...]
    lean: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def planned_bytes(self) -> int:
        """All memory that running takes: arena and packed weights."""
        return self.arena_bytes + self.weight_bytes

    @property
    def tuned(self) -> int:
        """Layers that were given another kernel than the first that can run them."""
        return sum(choice.tuned for choice in self.choices.values())

    @property
    def fallbacks(self) -> list[str]:
        """Kernels of backends that were not asked for by name."""
        return [step.kernel.name for step in self.steps if step.kernel.backend not in self.backends]

    @property
    def parts(self) -> list[slice]:
        """Where the images of each part are in a batch."""
        return [slice(start, start + self.part) for start in range(0, self.batch, self.part)]

    def run(self, x: Array) -> Array:
        """The network's output.

        Args        x   float32 (batch, c, h, w)
        Returns     float32 (batch, classes)
        Raises      ShapeError   x is not of the planned shape or not float32
        """
        x = np.asarray(x)
        wanted = (self.batch, *self.x.shape[1:])
        if x.shape != wanted or x.dtype != np.float32:
            raise ShapeError(
                f"{self.graph.name}: input is {x.dtype} {x.shape}, this plan wants float32 {wanted}; "
                "make a plan for another batch"
            )
        return self.by_parts(x, self._forward)

    def by_parts(self, x: Array, forward: Callable[[], None]) -> Array:
        """What `forward`, called for each part of x, leaves in y."""
        y = np.empty((self.batch, *self.y.shape[1:]), self.y.dtype)
        with self.lock:  # the arena is one: a second thread waits
            for part in self.parts:
                self.x[...] = x[part]
                forward()
                y[part] = self.y
        return y

    def _forward(self) -> None:
        for segment in self.segments:
            segment()


def plan(
    network: Graph | str | os.PathLike[str],
    batch: int = 1,
    backends: Sequence[str] = ("openmp", "blas", "numpy"),
    threads: int = 1,
    tuned: Mapping[str, str] | None = None,
) -> Plan:
    """Choose, place and pack everything that running a network takes.

    Args        network     a graph, which is left as it is; or a name or path, as `load` takes it: then each weight is
                            let go as soon as it is packed, and a process holds little more than `planned_bytes`
                backends    in order of preference; `blas` falls back to `numpy` where it has no row
                tuned       case word -> kernel to prefer, where it can run the case (benchmark.choices.tuned)
    Raises      UsageError, NoKernelError, BackendUnavailable, CompileError, ResourceError; what `load` raises
    """
    lean = not isinstance(network, Graph)
    graph = network if isinstance(network, Graph) else zoo.load(network)
    backends = (backends,) if isinstance(backends, str) else tuple(backends)
    for name, value in (("batch", batch), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise UsageError(f"plan: {name} is {value!r}, wanted a whole number of at least 1")
    kernels = rows(backends)
    part = portion(graph, int(batch), kernels, int(threads))
    drafts, slots, output = choose(graph, part, kernels, tuned or {})
    _share(drafts, slots, output)
    spans, scratch, blocks = _blocks(drafts, slots, output)
    offsets, arena_bytes = memory.offsets(blocks)
    arena = _allocate(arena_bytes)

    if lean:
        graph = graph.with_nodes([_bare(node) for node in graph])
    choices = {draft.node.name: draft.choice for draft in drafts}
    placed = dict(zip(spans, offsets, strict=False))
    views = [_view(arena, placed[slot.owner], slot) for slot in slots]
    working = [arena[start : start + size] for start, size in zip(offsets[len(spans) :], scratch, strict=True)]
    steps = _packed(drafts, views, working, lean)
    weight_bytes = sum(_weight_bytes(step) for step in steps)
    segments = _segments(steps, views[output.index], threads)
    if lean:
        heap.trim()
    return Plan(
        graph, int(batch), part, int(threads), backends, tuple(steps), choices, arena_bytes, weight_bytes,
        views[0], views[output.index], segments, lean,
    )  # fmt: skip


def cases(graph: Graph, batch: int) -> dict[str, Case]:
    """Node name -> the problem that it is."""
    shapes, dtypes = graph.shapes(batch), graph.dtypes()
    return {
        node.name: case_of(node, tuple(shapes[i] for i in node.inputs), dtypes[node.inputs[0]], dtypes[node.name])
        for node in graph
    }


def portion(graph: Graph, batch: int, kernels: tuple[Kernel, ...], threads: int) -> int:
    """How many images of a batch go through a network together: one vector of them a thread, where all convolutions
    take images side by side. Such kernels gain nothing from more, and what a layer writes is still in the second cache
    when the next one reads it. Others read their weights once for all images."""
    if batch == 1:
        return batch
    drafts, _, _ = choose(graph, batch, kernels, {})
    convolutions = [draft.choice.kernel for draft in drafts if isinstance(draft.case.op, Conv2d)]
    layouts = {layout for kernel in convolutions for layout in kernel.layouts}
    if len(layouts) != 1 or not of_images(layout := layouts.pop()):
        return batch
    part = layout_block(layout) * threads
    return batch if batch % part else part


def choose(
    graph: Graph, batch: int, kernels: tuple[Kernel, ...], tuned: Mapping[str, str]
) -> tuple[list[Draft], list[Slot], Slot]:
    """A kernel for every node, and reorders between those that disagree on the layout."""
    shapes, dtypes, problems = graph.shapes(batch), graph.dtypes(), cases(graph, batch)
    wanted = _wanted(graph, problems, kernels)
    slots: list[Slot] = []
    values: dict[str, dict[str, Slot]] = {}  # value -> layout -> slot
    drafts: list[Draft] = []

    def slot(name: str, layout: str, alias: Slot | None = None) -> Slot:
        made = Slot(len(slots), layout, shapes[name], dtypes[name], len(slots) if alias is None else alias.owner)
        slots.append(made)
        values.setdefault(name, {})[layout] = made
        return made

    def read(name: str, layout: str) -> Slot:
        """The value in this layout, reordered from the first one it was written in if need be; by way of nchw where no
        row goes straight."""
        if layout not in values[name]:
            source = next(iter(values[name].values()))
            if same_bytes(source.layout, layout, shapes[name]):
                return slot(name, layout, alias=source)
            node = Node(f"{name}:{layout}", Reorder(source.layout, layout), (name,))
            case = case_of(node, (shapes[name],), dtypes[name], dtypes[name])
            if "nchw" not in (source.layout, layout) and not candidates(case, kernels)[0]:
                source = read(name, "nchw")
                node = replace(node, op=Reorder("nchw", layout))
                case = replace(case, op=node.op)
            choice = select(case, kernels)
            drafts.append(Draft(node, case, choice, (source,), slot(name, layout)))
        return values[name][layout]

    slot(INPUT, "nchw")
    for node in graph:
        if isinstance(node.op, Flatten):  # the same bytes under another shape: nothing to run
            slot(node.name, "nchw", alias=read(node.inputs[0], "nchw"))
            continue
        case = problems[node.name]
        choice = select(case, kernels, tuned.get(case.word))
        if not weighted(case):
            choice = _follow(case, choice, kernels, values[node.inputs[0]])
        elif not choice.tuned:
            choice = _join(case, choice, kernels, wanted.get(node.name))
        inputs = tuple(read(name, choice.kernel.layouts[0]) for name in node.inputs)
        drafts.append(Draft(node, case, choice, inputs, slot(node.name, choice.kernel.layouts[1])))
    return drafts, slots, read(graph.output, "nchw")


def weighted(case: Case) -> bool:
    """A layer with weights: its row is chosen by its case alone, unless one `joins`, and its neighbours may follow."""
    return case.format not in ("float32", "int8") or bool(case.op.weight_shape(*case.inputs))


def _follow(case: Case, choice: Choice, kernels: tuple[Kernel, ...], layouts: Iterable[str]) -> Choice:
    """A layer without weights is too cheap to reorder for: take its backend's row that reads what is there."""
    able, _ = candidates(case, kernels)
    same = [
        row for row in able
        if row.backend == choice.kernel.backend
        and any(row.layouts[0] == each or same_bytes(each, row.layouts[0], case.inputs[0]) for each in layouts)
    ]  # fmt: skip
    return Choice(same[0]) if same else choice


def _wanted(graph: Graph, problems: Mapping[str, Case], kernels: tuple[Kernel, ...]) -> dict[str, str]:
    """Node name -> the layout that the next layer reads whose row is chosen by its case alone, if there is one."""
    wanted: dict[str, str] = {}
    for node in reversed(list(graph)):
        case = problems[node.name]
        able, _ = candidates(case, kernels)
        decides = weighted(case) and able and not any(row.joins for row in able)
        layout = able[0].layouts[0] if decides else wanted.get(node.name)
        if layout is not None and not isinstance(node.op, Flatten):
            wanted |= dict.fromkeys(node.inputs, layout)  # the first reader's in the end
    return wanted


def _join(case: Case, choice: Choice, kernels: tuple[Kernel, ...], wanted: str | None) -> Choice:
    """A layer that is cheap beside the copy which its neighbour would need: the row that writes what that one reads."""
    able, _ = candidates(case, kernels)
    same = [row for row in able if row.joins and row.backend == choice.kernel.backend and row.layouts[1] == wanted]
    return Choice(same[0]) if same else choice


def _share(drafts: list[Draft], slots: list[Slot], output: Slot) -> None:
    """An output takes the place of an input that nothing reads later, where the kernel allows it."""
    last = {slot.owner: i for i, draft in enumerate(drafts) for slot in draft.inputs}
    last[output.owner] = len(drafts)
    for i, draft in enumerate(drafts):
        owners, own = [slot.owner for slot in draft.inputs], draft.output
        for source in draft.inputs if draft.choice.kernel.in_place else ():
            alike = (source.dtype, source.nbytes) == (own.dtype, own.nbytes)
            if alike and last[source.owner] == i and owners.count(source.owner) == 1:
                last[source.owner] = last.get(own.owner, i)
                for slot in [slot for slot in slots if slot.owner == own.owner]:
                    slot.owner = source.owner
                break


def _blocks(
    drafts: list[Draft], slots: list[Slot], output: Slot
) -> tuple[dict[int, tuple[int, int]], list[int], list[memory.Block]]:
    """(lifetime of every owner, scratch of every step, what the arena must hold: the owners, then the scratch)"""
    spans = _lifetimes(drafts, slots, output)
    scratch = [draft.choice.kernel.scratch(draft.case) for draft in drafts]
    blocks = [memory.Block(slots[i].nbytes, *span) for i, span in spans.items()]
    return spans, scratch, blocks + [memory.Block(nbytes, i, i) for i, nbytes in enumerate(scratch)]


def _lifetimes(drafts: list[Draft], slots: list[Slot], output: Slot) -> dict[int, tuple[int, int]]:
    """Owner slot -> (first, last) step at which its bytes are in use. Input and output live at the edges."""
    spans: dict[int, tuple[int, int]] = {slots[0].owner: (0, 0)}
    for i, draft in enumerate(drafts):
        for used in (*draft.inputs, draft.output):
            first, _ = spans.get(used.owner, (i, i))
            spans[used.owner] = (first, i)
    first, _ = spans.get(output.owner, (0, 0))
    spans[output.owner] = (first, len(drafts))
    return spans


def _packed(drafts: list[Draft], views: list[Array], working: list[Array], lean: bool) -> list[Step]:
    """Steps of the drafts, which are used up: of a lean plan nothing else holds the weights."""
    steps, shelf = [], heap.Shelf()
    for scratch in working:
        draft = drafts.pop(0)
        kernel, node = draft.choice.kernel, draft.node
        packed = {name: shelf.put(array) for name, array in kernel.pack(node, draft.case).items()}
        inputs = tuple(views[slot.index] for slot in draft.inputs)
        kept = _bare(node) if lean and not callable(kernel.run) else node
        steps.append(Step(kept, draft.case, kernel, inputs, views[draft.output.index], packed, scratch))
    shelf.close()
    return steps


def _segments(steps: list[Step], y: Array, threads: int) -> tuple[Callable[[], None], ...]:
    """Runs of steps on one backend; of each the outputs that somebody reads behind it."""
    runs = [(name, list(run)) for name, run in groupby(steps, key=lambda step: step.kernel.backend)]
    found = []
    for i, (name, run) in enumerate(runs):
        read = {y.ctypes.data} | {x.ctypes.data for _, later in runs[i + 1 :] for step in later for x in step.inputs}
        outputs = [step.output for step in run if step.output.ctypes.data in read]
        found.append(backend(name).lower(run, threads, outputs))
    return tuple(found)


def _bare(node: Node) -> Node:
    """The node without arrays: what a C kernel computes with stands in its pack."""
    return replace(node, weight=None, bias=None, mean=None, var=None)


def _weight_bytes(step: Step) -> int:
    """Bytes of the packed weights, or of the weight itself where the kernel reads it as it is."""
    if step.packed:
        return sum(array.nbytes for array in step.packed.values())
    bias = step.node.bias.nbytes if step.node.bias is not None else 0
    return bias + (step.node.weight.nbytes if step.node.weight is not None else 0)


def _allocate(nbytes: int) -> Array:
    """Zeroed bytes that start on a cache line. ResourceError when there is no room."""
    try:
        return aligned(np.zeros(nbytes, np.uint8))
    except MemoryError:
        raise ResourceError(
            f"plan: the arena needs {nbytes / 2**20:.0f} MiB, which this machine does not have"
        ) from None


def aligned(array: Array) -> Array:
    """The same values in C order, starting on a multiple of memory.ALIGNMENT."""
    array = np.ascontiguousarray(array)
    if array.ctypes.data % memory.ALIGNMENT == 0:
        return array
    room = np.empty(array.nbytes + memory.ALIGNMENT, np.uint8)
    start = -room.ctypes.data % memory.ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _view(arena: Array, offset: int, slot: Slot) -> Array:
    return arena[offset : offset + slot.nbytes].view(slot.dtype).reshape(layout_shape(slot.layout, slot.shape))


def usable(names: Iterable[str]) -> dict[str, str | None]:
    """Backend name -> None if it can run here, else why not."""
    return {name: backend(name).unavailable() for name in names}
