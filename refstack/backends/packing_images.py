"""Sparse weights for vectors across images, as conv2d_csr_batch.c and conv2d_csr_columns.c read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy import ascontiguousarray as contiguous

from refstack.backends.packing import Packed, bias, filters, integers
from refstack.backends.packing_sparse import L1_BYTES, by_count, entries
from refstack.formats import Array
from refstack.graph import Node
from refstack.kernels import Case, patch_grid
from refstack.ops import Conv2d

ROOM = 2**14  # numbers in a thread's buffer of lines
SUMS = 2**16  # numbers in a thread's buffer of sums
COLS, LONG = 4, 8  # pixels of a tile's row
ITEMS = 4  # work items that there should be at least, for threads to share
TILE, WHOLE, POINTS, MAPS = range(4)  # kinds


@dataclass(frozen=True)
class Batch:
    """The geometry of rs_lines.h. With `patches` those of an image count as images of their own."""

    case: Case
    v: int
    patches: bool = False

    @property
    def op(self) -> Conv2d:
        """The layer."""
        return cast(Conv2d, self.case.op)

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        (_, _, p, q), (rows, cols) = self.case.shape, patch_grid(self.v) if self.patches else (1, 1)
        return p // rows, q // cols

    @property
    def most(self) -> int:
        """Pixels of a tile."""
        return 4 * COLS if self.op.stride[0] == 1 and self.v == 16 else 2 * COLS

    @property
    def groups(self) -> int:
        """Vectors of images."""
        n = self.case.shape[0]
        return n if self.patches else -(-n // self.v)

    @property
    def kind(self) -> int:
        """Of work items and lines."""
        (_, _, h, w), (p, q) = self.case.inputs[0], self.plane
        if self.op.kernel == (1, 1):
            return POINTS
        if self.patches:
            return TILE
        if p * q <= 4:
            return MAPS
        small = max(h, p) <= self.most // COLS and max(w, q) <= COLS and self.op.padding[:2] == (1, 1)
        return WHOLE if small and self.op.stride[0] == 1 else TILE

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of the vectors of an item."""
        p, q = self.plane
        if self.kind == MAPS:
            return 1, min(4, 1 << (self.groups - 1).bit_length())
        if self.kind == POINTS:  # small maps have many channels, of which few vectors leave room for more
            most = 8 if p * q >= 64 else 4
            return 1, min(most, 1 << (p * q).bit_length() - 1) if self.patches else most
        if self.patches and min(p, q) <= 2:
            return (2, 2) if min(p, q) == 2 else (1, 1)
        cols = LONG if self.kind == TILE and self.op.stride[0] == 1 and q > LONG else COLS
        return self.most // cols, cols

    @property
    def vectors(self) -> int:
        """Vectors of an item."""
        return math.prod(self.tile)

    @property
    def wide(self) -> int:
        """Lines of a channel in one row."""
        return COLS + 1 if self.kind == WHOLE else (self.tile[1] - 1) * self.op.stride[1] + self.op.kernel[1]

    @property
    def lines(self) -> int:
        """Lines of a channel."""
        if self.kind in (POINTS, MAPS):
            return self.vectors
        rows = self.tile[0]
        return self.wide * (rows + 1 if self.kind == WHOLE else (rows - 1) * self.op.stride[0] + self.op.kernel[0])


def spread(case: Case, rows: Array, columns: Array, values: Array) -> tuple[Array, Array, Array]:
    """The matrix (k,p,q) x (c,h,w) of a layer: a weight stands there once for every output that it reaches."""
    op, (_, _, h, w), (_, _, p, q) = cast(Conv2d, case.op), case.inputs[0], case.shape
    c, r, s = np.unravel_index(columns, (case.inputs[0][1], *op.kernel))
    parts = []
    for i in range(p * q):
        y = i // q * op.stride[0] + r * op.dilation[0] - op.padding[0]
        x = i % q * op.stride[1] + s * op.dilation[1] - op.padding[1]
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        parts.append(((rows * p * q + i)[inside], ((c * h + y) * w + x)[inside], values[inside]))
    found = [np.concatenate(each) for each in zip(*parts, strict=True)]
    order = np.lexsort((found[1], found[0]))
    return found[0][order], found[1][order], found[2][order]


def csr_batch(v: int, node: Node, case: Case, patches: bool = False) -> Packed:
    """The stored weights by chunk of filters, block of channels, and filter, those with few weights first."""
    m, (rows, columns, values) = Batch(case, v, patches), stored(node)
    (_, c, h, w), (n, k, p, q), start = case.inputs[0], case.shape, bias(node, case.shape[1])
    if m.kind == MAPS:
        rows, columns, values = spread(case, rows, columns, values)
        start, k, c = np.repeat(start, p * q), k * p * q, c * h * w
    channel, tap = np.divmod(columns.astype(np.int64), 1 if m.kind == MAPS else m.op.kernel[0] * m.op.kernel[1])
    size = fit(v, m.lines)
    size = -(-c // -(-c // size))  # blocks alike
    chunk = min(k, SUMS // (m.vectors * v))
    offsets = (channel % size * m.lines + tap // 3 * m.wide + tap % 3) * v
    lanes = n * v if patches else n
    return {
        "bias": start, **in_visits((k, c), (chunk, size), (rows, channel), offsets, values),
        "sizes": integers(size, chunk, *m.tile, m.kind, lanes, patches),
    }  # fmt: skip


def csr_columns(v: int, node: Node, case: Case) -> Packed:
    """The same of a 1x1 layer with blocked channels."""
    weight, (n, k, p, q), c = entries(node), case.shape, case.inputs[0][1]
    vectors = min(4, 1 << (-(-n * p * q // v) - 1).bit_length())
    k, c = -(-k // v) * v, -(-c // v) * v
    size = max(1, min(c, fit(v, vectors)) // v) * v
    chunk = -(-chunk_of(k, vectors * v, -(-n * p * q // (vectors * v))) // v) * v
    rows, channel = np.repeat(np.arange(weight.shape[0]), np.diff(weight.indptr)), weight.indices.astype(np.int64)
    offsets = channel % size * vectors * v
    return {
        "bias": bias(node, case.shape[1], v),
        **in_visits((k, c), (chunk, size), (rows, channel), offsets, weight.values),
        "sizes": integers(size, chunk, vectors),
    }  # fmt: skip


def stored(node: Node) -> tuple[Array, Array, Array]:
    """Row, column and value of the stored weights: all of a dense one, zeros too."""
    weight = node.weight
    if weight is not None and not weight.sparse:
        rows, columns = np.indices(weight.shape).reshape(2, -1)
        return rows, columns, weight.decode().ravel()
    found = entries(node)
    return np.repeat(np.arange(found.shape[0]), np.diff(found.indptr)), found.indices, found.values


def depthwise_batch(v: int, node: Node, case: Case) -> Packed:
    """The weights as they are, (c, 1, r, s); the bias once for every image of a vector."""
    w = filters(node, case)
    return {"bias": contiguous(np.repeat(bias(node, len(w)), v)), "weights": contiguous(w)}


def fit(v: int, lines: int) -> int:
    """Channels of so many lines that fit the first cache and the buffer."""
    return max(1, min(L1_BYTES // 4, ROOM) // (v * lines))


def chunk_of(k: int, outputs: int, items: int) -> int:
    """Filters of a chunk: their sums, so many outputs each, fit their buffer, and every thread finds some work."""
    return min(k, SUMS // outputs, -(-k // -(-ITEMS // items)))


def in_visits(
    shape: tuple[int, int], block: tuple[int, int], entry: tuple[Array, Array], offsets: Array, values: Array
) -> Packed:
    """Weights by visit, one for each (chunk, block of channels, filter of the chunk).

    Args        shape   of the matrix, filters and channels         block   filters of a chunk, channels of a block
                entry   (nnz,) filter and channel of a weight       offsets, values     (nnz,) of a weight
    """
    (k, c), (chunk, size), (rows, channel) = shape, block, entry
    blocks, chunks = -(-c // size), -(-k // chunk)
    share = np.minimum(chunk, k - np.arange(chunks) * chunk)
    visit = rows // chunk * chunk * blocks + channel // size * share[rows // chunk] + rows % chunk
    filters = np.concatenate([np.tile(np.arange(n), blocks) for n in share])
    part = np.concatenate([np.repeat(np.arange(blocks), n) + i * blocks for i, n in enumerate(share)])
    order, filters, ends = by_count(visit, filters, part)
    return {
        "ends": ends, "filters": filters, "offsets": contiguous(offsets[order].astype(np.uint16)),
        "values": contiguous(values[order]),
    }  # fmt: skip
