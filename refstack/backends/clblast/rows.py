"""The rows: convolutions and linear layers as CLBlast's matrix products, everything else as the opencl backend has it.

im2col -> products (products.py) into y, image by image -> bias and activation in place     (accel/opencl/im2col.cl)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyopencl as cl

from refstack.backends import opencl, packing
from refstack.backends.clblast.library import gemm, room, use
from refstack.backends.clblast.products import (
    COLUMN_MAJOR,
    PLAIN,
    TRANSPOSED,
    Parameters,
    Product,
    Setting,
    product,
    sizes,
)
from refstack.backends.needs import one_group
from refstack.backends.opencl.devices import Device
from refstack.backends.opencl.segment import LEAST, Launch, Runtime, runtime
from refstack.graph import Node
from refstack.kernels import Case, Kernel
from refstack.ops import Conv2d

GROUP = 64
"""Work-items of a work-group of im2col.cl."""

DEPTHWISE = Case(Conv2d((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 32, 32), "dense", ((1, 32, 8, 8),))
"""Rows that take this one take groups."""


@dataclass(frozen=True)
class Gemm:
    """The products of a row; it may stand in a row's `run` beside launches."""

    setting: Callable[[], Setting]

    def bind(
        self, runtime: Runtime, queue: cl.CommandQueue, case: Case, given: Sequence[cl.Buffer]
    ) -> Callable[[], Span]:
        """As segment.Call says. Given are x, y, bias, weights, columns."""
        setting, (x, y, _, w, columns) = self.setting(), given
        use(queue.device, setting.parameters)
        first = not isinstance(case.op, Conv2d) or sizes(case) in setting.filters_first
        source = columns if _unfolded(case) else x
        each = product(case, first)
        buffers = (w, source, y) if first else (source, w, y)
        pixels, filters, depth = sizes(case)
        starts = [(i * depth * pixels, i * filters * pixels) for i in range(_products(case))]
        places = [(0, i, o) if first else (i, 0, o) for i, o in starts]
        copies = runtime.buffer(max(room(queue, each, place) for place in places))

        def call() -> Span:
            use(queue.device, setting.parameters)
            before = cl.enqueue_marker(queue)
            handles = [gemm(queue, each, buffers, place, copies) for place in places]
            return Span(before, [cl.Event.from_int_ptr(handle, retain=False) for handle in handles][-1])

        return call


class Span:
    """What an event of several kernels would be: from the end of what was before them to the end of the last."""

    def __init__(self, before: cl.Event, last: cl.Event) -> None:
        self.before, self.last = before, last

    @property
    def profile(self) -> Span:
        """Has start and end, as an event's."""
        return self

    @property
    def start(self) -> int:
        """ns of the device's clock."""
        return int(self.before.profile.end)

    @property
    def end(self) -> int:
        """ns of the device's clock."""
        return int(self.last.profile.end)


def _products(case: Case) -> int:
    return case.inputs[0][0] if isinstance(case.op, Conv2d) else 1


def _unfolded(case: Case) -> bool:
    """Whether there are columns to write: those of 1x1 windows at stride 1 are the image."""
    op = case.op
    return isinstance(op, Conv2d) and not (op.kernel == op.stride == (1, 1) and not any(op.padding))


def _scratch(case: Case) -> int:
    """Bytes of the columns; a few where there are none, since an argument needs a buffer."""
    pixels, _, depth = sizes(case)
    return max(LEAST, 4 * _products(case) * pixels * depth * _unfolded(case))


def transposed(node: Node, case: Case) -> packing.Packed:
    """The matrix (c*r*s, k)."""
    packed = packing.matrix(node, case)
    matrix = packed["weights"].reshape(case.shape[1], -1)
    return packed | {"weights": np.ascontiguousarray(matrix.T)}


def grouped(case: Case) -> str | None:
    """More than one group."""
    groups = getattr(case.op, "groups", 1)
    return None if groups > 1 else f"groups is {groups}, that is a matrix product"


def rows(backend: str, device: Device, setting: Callable[[], Setting]) -> tuple[Kernel, ...]:
    """Products first, then the opencl backend's rows for all that is none."""
    runs = int(device.kind != "gpu")

    def launch(function: str, count: Callable[[Case], int]) -> Launch:
        def size(case: Case) -> tuple[int]:
            return (-(-count(case) // GROUP) * GROUP,)

        return Launch("im2col", size, (GROUP,), lambda case: {"RUNS": runs}, function, walks=False)

    def columns(case: Case) -> int:
        pixels, _, depth = sizes(case)
        return _products(case) * depth * (1 if runs else pixels) * _unfolded(case)

    def planes(case: Case) -> int:
        return math.prod(case.shape[:2] if runs else case.shape)

    unfold, finish = launch("im2col", columns), launch("bias_activation", planes)
    found = [
        Kernel(
            op, "dense", backend, "gemm", (unfold, Gemm(setting), finish), needs=needs, pack=transposed,
            scratch=_scratch, blocks=(8, 64), summary="im2col + CLBlast",
        )
        for op, needs in (("conv2d", (one_group,)), ("linear", ()))
    ]  # fmt: skip
    for row in opencl.kernels():
        if row.op == "conv2d" and row.format == "dense" and row.refusal(DEPTHWISE) is None:
            found.append(replace(row, backend=backend, needs=(*row.needs, grouped)))
        elif row.op not in ("conv2d", "linear"):
            found.append(replace(row, backend=backend))
    return tuple(found)


def warm(parameters: Parameters) -> None:
    """One small product with these parameters: the library compiles all its kernels for it."""
    owner = runtime()
    queue = owner.queue(False)
    use(queue.device, parameters)
    buffers = owner.buffer(256), owner.buffer(256), owner.buffer(256)
    copies = owner.buffer(1 << 20)
    for transpose in ((PLAIN, TRANSPOSED), (PLAIN, PLAIN)):  # of conv2d and linear
        small = Product(COLUMN_MAJOR, transpose, 8, 8, 8, (8, 8, 8))
        cl.Event.from_int_ptr(gemm(queue, small, buffers, (0, 0, 0), copies), retain=False)
    queue.finish()
