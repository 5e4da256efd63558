"""Sparse weights as kernels read them that take one image at a time; those for many images are in packing_images.py."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy import ascontiguousarray as contiguous

from refstack.backends.packing import Packed, bias, integers
from refstack.formats import Array, Bsr, Csr, Ternary, Weight
from refstack.graph import Node
from refstack.kernels import Case
from refstack.ops import Conv2d

TILE = 8  # vectors of pixels in a tile: rs_planes.h
ROOM = 32768  # numbers in a thread's buffer
UNFOLD = 1024  # numbers of one channel's planes that may be unfolded


@dataclass(frozen=True)
class Planes:
    """The geometry of rs_planes.h: [c][row mod st][s][rows][q] of a tile, or [c][r][s][v]; `direct` is the image."""

    op: Conv2d
    rows: int
    q: int
    v: int
    direct: bool
    unfolded: bool

    @classmethod
    def of(cls, v: int, case: Case) -> Planes:
        op, (_, _, p, q) = cast(Conv2d, case.op), case.shape
        direct = op.kernel == op.stride == (1, 1) and not any(op.padding) and p * q % v == 0
        rows, span = p, TILE * v
        if p * q > span and not direct:
            rows = min(p, (span + q - 2) // q + 1 if span % q else span // q)
        rows += (op.kernel[0] - 1) * op.dilation[0] // op.stride[0]
        folded = cls(op, rows, q, v, direct, False)
        return replace(folded, unfolded=p * q == v and not direct and folded.channel <= UNFOLD)

    @property
    def channel(self) -> int:
        """Numbers from one channel to the next."""
        r, s = self.op.kernel
        return r * s * self.v if self.unfolded else self.op.stride[0] * s * self.rows * self.q

    def offsets(self, columns: Array) -> Array:
        """Where the pixels of a column (c, r, s) start."""
        c, tap = np.divmod(columns.astype(np.int64), self.op.kernel[0] * self.op.kernel[1])
        if self.unfolded:
            return c * self.channel + tap * self.v
        r, s = np.divmod(tap, self.op.kernel[1])
        down, residue = np.divmod(r * self.op.dilation[0], self.op.stride[0])
        return c * self.channel + ((residue * self.op.kernel[1] + s) * self.rows + down) * self.q

    @property
    def room(self) -> int:
        """Numbers that a block's planes may be: the buffer's, or what offsets of 16 bits reach in the image."""
        return 2**16 if self.direct else ROOM

    def touched(self, vectors: int) -> int:
        """Bytes of one channel that a tile of so many vectors of pixels reads."""
        return 4 * (min(self.channel, vectors * self.v) if self.direct else self.channel)


def first_cache(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of a core's first data cache, as Linux tells them; 32 KiB, the usual size, where it does not."""
    for index in sorted(caches.glob("index*")):
        with suppress(OSError, ValueError):
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if level == "1" and kind == "Data":
                return int(size.removesuffix("K")) * 1024
    return 32 * 1024


L1_BYTES = first_cache() - 4096  # the rest is for weights and sums on their way
LEAST_RUN = 12  # stored weights of a filter in one block of channels, on average: fewer do not pay for its sums' way


def block_of_channels(v: int, case: Case, nnz: int) -> int:
    """Channels whose planes fit the first cache, unless filters would find too few stored weights in them; never more
    than the buffer and offsets of 16 bits hold."""
    (_, c, _, _), (_, k, p, q) = case.inputs[0], case.shape
    planes = Planes.of(v, case)
    fit = L1_BYTES // planes.touched(min(TILE, -(-p * q // v)))
    most = min(c, planes.room // planes.channel)
    return min(most, max(1, fit, LEAST_RUN * k * c // max(1, nnz)))


def by_count(visit: Array, filters: Array, part: Array) -> tuple[Array, Array, Array]:
    """Visits of filters, within each part those with few stored weights first: loops of equal length follow each other.

    Args        visit   (nnz,) in which visit a weight is used          filters, part   (visits,) whose, and where it is
    Returns     order of the weights; int32 (visits,) filters in the new order; int32 (visits + 1,) where weights end
    """
    counts = np.bincount(visit, minlength=len(filters))
    visits = np.lexsort((counts, part))
    place = np.empty_like(visits)
    place[visits] = np.arange(len(visits))
    ends = np.concatenate([[0], np.cumsum(counts[visits])])
    return np.argsort(place[visit], kind="stable"), filters[visits].astype(np.int32), ends.astype(np.int32)


def sort_by_block(v: int, case: Case, rows: Array, columns: Array) -> tuple[Packed, Array]:
    """Entries of a sparse matrix as rs_planar.h reads them, by block of channels, then row; and their order."""
    (_, c, _, _), (_, k, _, _), op = case.inputs[0], case.shape, cast(Conv2d, case.op)
    taps = op.kernel[0] * op.kernel[1]
    columns = columns + rows // (k // op.groups) * (c // op.groups * taps)  # of all channels
    size = block_of_channels(v, case, columns.size)
    block, column = np.divmod(columns, size * taps)
    run = block * k + rows
    filters, blocks = np.tile(np.arange(k), -(-c // size)), np.repeat(np.arange(-(-c // size)), k)
    halves = filters // -(-k // 2)  # two threads read weights that follow each other; more skip some of them
    order, filters, ends = by_count(run, filters, 2 * blocks + halves)
    offsets = Planes.of(v, case).offsets(column)[order].astype(np.uint16)
    return {
        "ends": ends, "offsets": contiguous(offsets), "sizes": integers(size), "filters": filters,
    }, order  # fmt: skip


def entries(node: Node) -> Csr:
    """The stored weights one by one; of a format that stores all, those that are not zero."""
    weight = cast(Weight, node.weight)
    if isinstance(weight, Csr):
        return weight
    return weight.csr() if isinstance(weight, Bsr) else Csr.encode(weight.decode())


def csr_planar(v: int, node: Node, case: Case) -> Packed:
    """The stored weights by block of channels, then filter; offsets instead of columns."""
    weight = entries(node)
    rows = np.repeat(np.arange(weight.shape[0]), np.diff(weight.indptr))
    sparse, order = sort_by_block(v, case, rows, weight.indices)
    values = contiguous(weight.values[order])
    return {
        "bias": bias(node, case.shape[1]), "ends": sparse["ends"], "offsets": sparse["offsets"], "values": values,
        "sizes": sparse["sizes"], "filters": sparse["filters"],
    }  # fmt: skip


def ternary_planar(v: int, node: Node, case: Case) -> Packed:
    """The offsets of each filter's positive taps, then of its negative ones, by block of channels."""
    weight = cast(Ternary, node.weight)
    signs = weight.signs()
    negative, rows, columns = np.nonzero(np.stack(signs))  # positive ones first, and the sort below is stable
    sparse, order = sort_by_block(v, case, rows, columns)
    before = np.concatenate([[0], np.cumsum(negative[order] == 0)])
    starts, stops = sparse["ends"][:-1], sparse["ends"][1:]
    middles = starts + before[stops] - before[starts]
    return {
        "bias": bias(node, case.shape[1]), "ends": sparse["ends"], "offsets": sparse["offsets"],
        "middles": middles.astype(np.int32), "sizes": sparse["sizes"], "filters": sparse["filters"],
        "scales": weight.scales,
    }  # fmt: skip


def csr_direct(node: Node, case: Case) -> Packed:
    """indptr, columns as (c, r, s), values; of any format's non-zeros"""
    weight = entries(node)
    op = cast(Conv2d, case.op)
    taps = np.stack(np.unravel_index(weight.indices, (case.inputs[0][1] // op.groups, *op.kernel)), 1)
    arrays = {"indptr": weight.indptr, "taps": taps.astype(np.int32), "values": weight.values}
    return {"bias": bias(node, case.shape[1]), **{key: contiguous(array) for key, array in arrays.items()}}


def csr_taps(node: Node, case: Case) -> Packed:
    """As csr_direct for a linear layer, whose columns are channels of one pixel."""
    weight = entries(node)
    taps = np.pad(weight.indices[:, None].astype(np.int32), ((0, 0), (0, 2)))
    arrays = {"indptr": weight.indptr, "taps": taps, "values": weight.values}
    return {"bias": bias(node, case.shape[1]), **{key: contiguous(array) for key, array in arrays.items()}}


def csr_linear(node: Node, case: Case) -> Packed:
    """The encoding itself."""
    weight = entries(node)
    arrays = {"indptr": weight.indptr, "columns": weight.indices, "values": weight.values}
    return {"bias": bias(node, case.shape[1]), **{key: contiguous(array) for key, array in arrays.items()}}
