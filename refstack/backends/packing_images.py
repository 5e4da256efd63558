"""Sparse weights for vectors of images, as conv2d_csr_images.c reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy import ascontiguousarray as contiguous

from refstack.backends.packing import L1_BYTES, Packed, bias, by_count, entries, integers
from refstack.formats import Array
from refstack.graph import Node
from refstack.kernels import Case
from refstack.ops import Conv2d

ROOM = 2**14  # numbers in a thread's buffer of lines: conv2d_csr_images.c
SUMS = 2**16  # numbers in a thread's buffer of sums
COLS = 4  # pixels of a tile's row
ITEMS = 4  # work items that there should be at least, for threads to share


@dataclass(frozen=True)
class Images:
    """The geometry of conv2d_csr_images.c."""

    case: Case
    v: int

    @property
    def op(self) -> Conv2d:
        """The layer."""
        return cast(Conv2d, self.case.op)

    @property
    def maps(self) -> bool:
        """Whether pixels count as channels."""
        return self.op.kernel != (1, 1) and self.case.shape[2] * self.case.shape[3] <= 4

    @property
    def columns(self) -> bool:
        """Whether items are columns in a row, not tiles."""
        return self.maps or self.op.kernel == (1, 1)

    @property
    def count(self) -> int:
        """Columns."""
        n, _, p, q = self.case.shape
        return n if self.maps else n * p * q

    @property
    def vectors(self) -> int:
        """Vectors of an item."""
        if self.columns:
            return min(4, 1 << (-(-self.count // self.v) - 1).bit_length())
        return COLS * (4 if self.op.stride[0] == 1 and self.v == 16 else 2)

    @property
    def row(self) -> int:
        """Lines of a channel in one row."""
        return self.vectors if self.columns else (COLS - 1) * self.op.stride[1] + self.op.kernel[1]

    @property
    def lines(self) -> int:
        """Lines of a channel."""
        if self.columns:
            return self.vectors
        return self.row * ((self.vectors // COLS - 1) * self.op.stride[0] + self.op.kernel[0])

    @property
    def items(self) -> int:
        """Work items of a chunk."""
        n, _, p, q = self.case.shape
        if self.columns:
            return -(-self.count // (self.vectors * self.v))
        return -(-n // self.v) * -(-p // (self.vectors // COLS)) * -(-q // COLS)


def blocked(v: int, channels: Array, pixels: int, pixel: Array | int) -> Array:
    """Where (channel, pixel) lies in an image of nchw<v>c, in numbers."""
    return channels // v * pixels * v + pixel * v + channels % v


def spread(v: int, case: Case, rows: Array, columns: Array, values: Array) -> tuple[Array, Array, Array]:
    """The matrix (k,p,q) x (c,h,w) of a layer: a weight stands there once for every output that it reaches."""
    op, (_, _, h, w), (_, _, p, q) = cast(Conv2d, case.op), case.inputs[0], case.shape
    c, r, s = np.unravel_index(columns, (case.inputs[0][1], *op.kernel))
    parts = []
    for i in range(p * q):
        y = i // q * op.stride[0] + r * op.dilation[0] - op.padding[0]
        x = i % q * op.stride[1] + s * op.dilation[1] - op.padding[1]
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        to, of = blocked(v, rows, p * q, i), blocked(v, c, h * w, y * w + x)
        parts.append((to[inside], of[inside], values[inside]))
    found = [np.concatenate(each) for each in zip(*parts, strict=True)]
    order = np.lexsort((found[1], found[0]))
    return found[0][order], found[1][order], found[2][order]


def csr_images(v: int, node: Node, case: Case) -> Packed:
    """The stored weights by chunk of filters, block of channels, and filter, those with few weights first."""
    weight, m = entries(node), Images(case, v)
    rows, columns, values = np.repeat(np.arange(weight.shape[0]), np.diff(weight.indptr)), weight.indices, weight.values
    k, c, pixels = -(-case.shape[1] // v) * v, -(-case.inputs[0][1] // v) * v, case.shape[2] * case.shape[3]
    start = bias(node, case.shape[1], v)
    if m.maps:
        rows, columns, values = spread(v, case, rows, columns, values)
        start = contiguous(np.repeat(start.reshape(-1, 1, v), pixels, 1).ravel())
        k, c = k * pixels, c * case.inputs[0][2] * case.inputs[0][3]
    taps = 1 if m.columns else 9
    channel, tap = np.divmod(columns.astype(np.int64), taps)
    size = max(1, min(c, L1_BYTES // (4 * v * m.lines), ROOM // (v * m.lines)) // v) * v
    chunk = min(k, SUMS // (m.vectors * v), -(-k // -(-ITEMS // m.items) // v) * v)
    blocks, chunks = -(-c // size), -(-k // chunk)
    share = np.minimum(chunk, k - np.arange(chunks) * chunk)
    # one visit for each (chunk, block, filter of the chunk), in this order
    visit = rows // chunk * chunk * blocks + channel // size * share[rows // chunk] + rows % chunk
    filters = np.concatenate([np.tile(np.arange(n), blocks) for n in share])
    part = np.concatenate([np.repeat(np.arange(blocks), n) + i * blocks for i, n in enumerate(share)])
    order, filters, ends = by_count(visit, filters, part)
    line = tap // 3 * m.row + tap % 3 if taps > 1 else 0
    offsets = (channel % size * m.lines + line) * v
    return {
        "bias": start, "ends": ends, "filters": filters,
        "offsets": contiguous(offsets[order].astype(np.uint16)), "values": contiguous(values[order]),
        "sizes": integers(size, chunk, m.vectors, m.maps),
    }  # fmt: skip
