"""Weights as the kernels for processors read them, where OpenMP's layout alone does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from refstack.backends.packing import Packed, half, integers, linear_blocked
from refstack.backends.packing_sparse import TILE, UNFOLD, Planes
from refstack.formats import Array
from refstack.graph import Node
from refstack.kernels import Case
from refstack.ops import Conv2d

NARROW = 8
"""Rows of fewer pixels are not worth copying one by one."""


def half_linear(v: int, node: Node, case: Case) -> Packed:
    """(k, c) -> [k/v][c][v k] in two bytes."""
    return half(linear_blocked(v, node, case))


def tiles(v: int, case: Case) -> int:
    """Of an image."""
    _, _, p, q = case.shape
    return -(-p * q // (TILE * v))


def sparse(v: int, pack: Callable[[int, Node, Case], Packed], node: Node, case: Case) -> Packed:
    """What OpenMP's planar kernels get, and the geometry of the planes (conv2d_sparse_cpu.cl)."""
    packed, planes = pack(v, node, case), Planes.of(v, case)
    sizes = integers(*packed["sizes"], planes.rows, planes.channel, int(planes.direct))
    return {**packed, "sizes": sizes, "where": where(v, planes, case)}


def where(v: int, planes: Planes, case: Case) -> Array:
    """int32 (numbers of a channel's planes,): which number of a channel's image stands there, -1 for padding; or -2."""
    op, (_, _, h, w), (_, _, p, q) = cast(Conv2d, case.op), case.inputs[0], case.shape
    copied = tiles(v, case) > 1 or q >= NARROW or planes.channel > UNFOLD
    if planes.direct or (copied and not planes.unfolded):
        return np.full(1, -2, np.int32)
    (top, left, _, _), (sh, sw), (dh, dw), (r, s) = op.padding, op.stride, op.dilation, op.kernel
    if planes.unfolded:
        taps, columns, rows, places = np.ix_(range(r), range(s), range(p), range(q))
        at_h = rows * sh + taps * dh - top
    else:
        residues, columns, rows, places = np.ix_(range(sh), range(s), range(planes.rows), range(q))
        at_h = rows * sh + residues - top
    at_w = places * sw + columns * dw - left
    inside = (at_h >= 0) & (at_h < h) & (at_w >= 0) & (at_w < w)
    return np.ascontiguousarray(np.where(inside, at_h * w + at_w, -1).astype(np.int32).ravel())
