"""Call one row of the registry by itself, on any node and inputs: what peers, relations and determinism tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from refstack import ops
from refstack.backends import BACKENDS, Step, backend, rows
from refstack.formats import Array, Int8
from refstack.graph import Node
from refstack.kernels import Case, Kernel, Reorder, case_of, from_nchw, layout_shape, to_nchw
from refstack.memory import ALIGNMENT
from refstack.verification.harness import accepts

USABLE = [name for name in BACKENDS if not backend(name).unavailable()]
ROWS = [row for name in USABLE for row in backend(name).kernels()]


def case(node: Node, inputs: Sequence[Array]) -> Case:
    """The case that a node is on these inputs."""
    dtype = inputs[0].dtype.type
    narrow = isinstance(node.op, ops.Quantize) or (isinstance(node.weight, Int8) and node.weight.output is not None)
    output = np.int8 if narrow else np.float32 if node.weight is not None else dtype
    return case_of(node, tuple(x.shape for x in inputs), dtype, output)


def array(shape: Sequence[int], dtype: np.dtype | type, offset: int = 0) -> Array:
    """0xFF in every byte, `offset` elements behind a cache line."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.full(nbytes + 2 * ALIGNMENT + offset * np.dtype(dtype).itemsize, 0xFF, np.uint8)
    start = -room.ctypes.data % ALIGNMENT + offset * np.dtype(dtype).itemsize
    return room[start : start + nbytes].view(dtype).reshape(shape)


class Call:
    """A row on buffers of its own, which are the same at every call. Inputs and output are nchw.

    threads     of every call          offset      elements by which all but scratch miss a cache line
    """

    def __init__(self, row: Kernel, node: Node, inputs: Sequence[Array], threads: int = 1, offset: int = 0) -> None:
        self.case, self.algorithm = case(node, inputs), row.algorithm
        self.source, self.target = row.layouts
        if isinstance(node.op, Reorder):
            self.source, self.target = node.op.source, node.op.target
        self.inputs = tuple(array(layout_shape(self.source, x.shape), x.dtype, offset) for x in inputs)
        self.output = array(layout_shape(self.target, self.case.shape), np.dtype(self.case.output), offset)
        packed = {}
        for name, values in row.pack(node, self.case).items():
            packed[name] = array(values.shape, values.dtype, offset)
            packed[name][...] = values
        scratch = array((row.scratch(self.case),), np.uint8)
        step = Step(node, self.case, row, self.inputs, self.output, packed, scratch)
        self.step = backend(row.backend).lower((step,), threads)

    def __call__(self, *inputs: Array) -> Array:
        for place, x in zip(self.inputs, inputs, strict=True):
            place[...] = from_nchw(x, self.source)
        self.output.view(np.uint8).reshape(-1)[...] = 0xFF
        self.step()
        return np.array(to_nchw(self.output, self.target, self.case.shape))


def takes(row: Kernel, asked: Case) -> bool:
    """Whether the row is for this op and format, and accepts the case."""
    return (row.op, row.format) == (asked.op.name, asked.format) and accepts(row, asked)


def prepare(row: Kernel, node: Node, inputs: Sequence[Array]) -> Call:
    """A call of the row; if it does not take this case, of the first row of its backend which does."""
    asked = case(node, inputs)
    return Call(next(each for each in (row, *rows((row.backend,))) if takes(each, asked)), node, inputs)


def run(row: Kernel, node: Node, *inputs: Array) -> Array:
    """The row's output (or that of another row of its backend, see `prepare`)."""
    return prepare(row, node, inputs)(*inputs)
