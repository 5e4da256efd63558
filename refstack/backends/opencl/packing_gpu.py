"""Tiles of the GPU kernels: which one a case gets, and the weights as it reads them.

Next: accel/opencl/conv2d_dense_tile.cl
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import ascontiguousarray as contiguous

from refstack.backends import packing
from refstack.backends.packing import Packed
from refstack.graph import Node
from refstack.kernels import Case
from refstack.ops import Window

ITEMS = 256
"""Work-items of a group."""


@dataclass(frozen=True)
class Tile:
    """KT filters x PT pixels by work-items of TK x TP sums, D rows at a time."""

    kt: int
    pt: int
    tk: int
    tp: int
    d: int

    @property
    def defines(self) -> dict[str, int]:
        """The constants of conv2d_dense_tile.cl."""
        return {"KT": self.kt, "PT": self.pt, "TK": self.tk, "TP": self.tp, "D": self.d}

    def chunks(self, case: Case) -> int:
        """Portions of D rows of a sum."""
        return taps(case) * -(-case.inputs[0][1] // self.d)

    def count(self, case: Case) -> int:
        """Tiles of a layer."""
        return -(-case.shape[1] // self.kt) * -(-pixels(case) // self.pt)


TILES = (
    Tile(128, 128, 8, 8, 8),
    Tile(64, 256, 8, 8, 8),
    Tile(64, 64, 8, 4, 16),
    Tile(64, 16, 4, 4, 32),
    Tile(64, 4, 4, 4, 64),
)


def taps(case: Case) -> int:
    """Places of a filter."""
    return math.prod(case.op.kernel) if isinstance(case.op, Window) else 1


def pixels(case: Case) -> int:
    """Places of the output, of all images."""
    return case.shape[0] * math.prod(case.shape[2:])


@dataclass(frozen=True)
class Plan:
    """How a layer is computed: with which tile, and by how many groups each."""

    tile: Tile
    parts: int


def choose(case: Case, groups: int) -> Plan:
    """The plan that should take least: rounds of all groups, times chunks of a tile's part."""
    plans = []
    for tile in TILES:
        chunks, count = tile.chunks(case), tile.count(case)
        parts = max(1, min(groups // count, chunks // 2))
        rounds = -(-count * parts // groups)
        work = rounds * (-(-chunks // parts) * tile.kt * tile.pt * tile.d / 8192 + 4)
        plans.append((work + (4 + parts / 8 if parts > 1 else 0), -tile.kt * tile.pt, Plan(tile, parts)))
    return min(plans, key=lambda each: each[:2])[2]


def tiled(plan: Plan, node: Node, case: Case) -> Packed:
    """(k, c, r, s) -> [r*s][c up to D][k up to KT]"""
    assert node.weight is not None
    w = node.weight.decode().reshape(case.shape[1], case.inputs[0][1], taps(case)).transpose(2, 1, 0)
    w = packing.pad_axis(packing.pad_axis(w, 1, plan.tile.d), 2, plan.tile.kt)
    return {"bias": packing.bias(node, case.shape[1]), "weights": contiguous(w)}


def scratch(plan: Plan, case: Case) -> int:
    """Bytes of the parts' sums; never none, since the kernel has an argument for them."""
    return 4 * plan.parts * case.shape[1] * pixels(case) if plan.parts > 1 else 64


def depthwise(node: Node, case: Case) -> Packed:
    """w (c, r, s)"""
    w = packing.filters(node, case)
    return {"bias": packing.bias(node, len(w)), "weights": contiguous(w.astype(np.float32))}
