"""Tiles of the GPU kernels: which one a case gets, and the weights as it reads them.

Next: accel/opencl/conv2d_dense_tile.cl
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy import ascontiguousarray as contiguous

from refstack.backends import packing
from refstack.backends.opencl.devices import Device
from refstack.backends.packing import Packed
from refstack.backends.packing_sparse import entries
from refstack.formats import Array, Int8, Ternary
from refstack.formats.ternary import unpack
from refstack.graph import Node
from refstack.kernels import Case
from refstack.ops import Window

ITEMS = 256
"""Work-items of a group that works number by number."""


UNIT_GROUPS = 2
"""Work-groups that a compute unit of a GPU holds at once: 128 registers for each work-item."""
GROUPS = 264
"""The same of a whole device, where it is no GPU: those of an H100, so that tests take its paths."""


def groups_of(device: Device) -> int:
    """Work-groups that run at once."""
    return UNIT_GROUPS * device.compute_units if device.kind == "gpu" else GROUPS


@dataclass(frozen=True)
class Tile:
    """KT filters x PT pixels by work-items of TK x TP sums, D rows at a time, so many portions in local memory.

    channels    in a row: four in a word of bytes
    """

    kt: int
    pt: int
    tk: int
    tp: int
    d: int
    stages: int = 3
    items: int = 256
    channels: int = 1

    @property
    def defines(self) -> dict[str, int]:
        """The constants of conv2d_dense_tile.cl."""
        return {
            "KT": self.kt,
            "PT": self.pt,
            "TK": self.tk,
            "TP": self.tp,
            "D": self.d,
            "STAGES": self.stages,
            "ITEMS": self.items,
        }

    @property
    def room(self) -> int:
        """Numbers of local memory: the portions, or the teams' sums."""
        teams = self.items * self.tk * self.tp // (self.kt * self.pt)
        return max(self.stages * self.d * (self.kt + self.pt), (teams > 1) * teams * self.kt * self.pt)

    def chunks(self, case: Case) -> int:
        """Portions of D rows of a sum."""
        if few(case):
            return -(-taps(case) * case.inputs[0][1] // self.d)
        return taps(case) * -(-case.inputs[0][1] // (self.d * self.channels))

    def count(self, case: Case) -> int:
        """Tiles of a layer."""
        return -(-case.shape[1] // self.kt) * -(-pixels(case) // self.pt)


SMALL = (
    Tile(64, 16, 4, 4, 16, 6),
    Tile(64, 16, 4, 4, 32, 4),
    Tile(64, 32, 4, 4, 32),
    Tile(32, 16, 4, 4, 64),
    Tile(32, 8, 4, 4, 64, 4),
    Tile(32, 4, 4, 4, 64, 4),
    Tile(16, 16, 4, 4, 64, 4),
    Tile(16, 8, 4, 4, 128),
    Tile(16, 4, 4, 4, 128, 4),
)
"""Tiles where a layer is over in microseconds: what counts is that all groups have something to do at once."""
LARGE = (
    Tile(128, 128, 8, 8, 16),
    Tile(128, 64, 8, 4, 16),
    Tile(64, 128, 8, 4, 16),
    Tile(64, 256, 8, 8, 8, 4),
    Tile(64, 64, 8, 4, 16),
    Tile(128, 32, 4, 4, 16, 4),
)
"""Tiles where multiply-adds count; how fast each is beside the first stands in SPEED."""
SPEED = (1.0, 0.96, 0.96, 0.88, 0.88, 0.7)
SMALL_INT8 = tuple(
    Tile(kt, pt, 4, 4, d, stages, channels=4)
    for kt, pt, d, stages in ((64, 16, 16, 4), (32, 32, 16, 4), (64, 32, 16, 4), (16, 16, 16, 6), (16, 16, 32, 4),
                              (32, 8, 32, 4), (16, 4, 64, 4), (64, 4, 64, 2))
)  # fmt: skip
LARGE_INT8 = tuple(
    Tile(*sizes, channels=4)
    for sizes in ((128, 128, 8, 8, 8), (128, 64, 8, 4, 16), (64, 128, 8, 4, 16), (64, 256, 8, 8, 8), (64, 64, 8, 4, 16),
                  (128, 32, 4, 4, 16))
)  # fmt: skip
FEW = 4
"""Channels of an image, and how many count as few."""
INTEGERS = ("int8", "ternary8")
ALONE = {1: 0.7, 2: 0.9}
"""What is left of the speed where a compute unit has so few groups."""
WALK_MACS = 150_000_000
"""Multiply-adds of a call, on average, from which launches cost nothing: the device is busy longer than the caller."""
LARGE_MACS = 400_000_000
"""Multiply-adds of a layer from which it gets a large tile."""


def taps(case: Case) -> int:
    """Places of a filter."""
    return math.prod(case.op.kernel) if isinstance(case.op, Window) else 1


def few(case: Case) -> bool:
    """Whether a portion holds rows of several taps: its channels alone would leave it all but empty."""
    return case.format not in INTEGERS and taps(case) > 1 and case.inputs[0][1] <= FEW


def pixels(case: Case) -> int:
    """Places of the output, of all images."""
    return case.shape[0] * math.prod(case.shape[2:])


@dataclass(frozen=True)
class Plan:
    """How a layer is computed: with which tile, and by how many groups each."""

    tile: Tile
    parts: int


def choose(case: Case, groups: int, local_bytes: int) -> Plan:
    """The plan that should take least, on a device that runs so many groups at once, each with so much local memory."""
    integers = case.format in INTEGERS
    if case.op.macs(*case.inputs) < LARGE_MACS:
        tiles, cost = SMALL_INT8 if integers else SMALL, _microseconds
    else:
        tiles, cost = LARGE_INT8 if integers else LARGE, _operations
    fitting = [tile for tile in tiles if 4 * tile.room <= local_bytes] or [min(tiles, key=lambda tile: tile.room)]
    plans = [Plan(tile, parts) for tile in fitting for parts in _parts(tile, case, groups)]
    return min(plans, key=lambda plan: cost(plan, case, groups))


def _parts(tile: Tile, case: Case, groups: int) -> list[int]:
    """Numbers of parts that give some share of the groups work."""
    most, count = tile.chunks(case), tile.count(case)
    return sorted({max(1, min(most, share * groups // (4 * count))) for share in (0, 1, 2, 4, 8)})


def _microseconds(plan: Plan, case: Case, groups: int) -> float:
    """Fitted to timings of the networks' layers at batch 1 on an H100 (error 7 %, docs/opencl-gpu.md)."""
    tile, count = plan.tile, plan.tile.count(case) * plan.parts
    rounds, chunks = -(-count // groups), -(-tile.chunks(case) // plan.parts)
    products = -(-2 * count // groups) * chunks * tile.d * tile.kt * tile.pt
    moved = 4 * count * chunks * tile.d * (tile.kt + tile.pt)
    gathered = rounds * chunks * tile.d * tile.pt
    split = 2.1 if plan.parts > 1 else 0.0
    return 1.4 * rounds + 0.11 * rounds * chunks + 7.0e-6 * products + 8.7e-8 * moved + 2e-4 * gathered + split


def _operations(plan: Plan, case: Case, groups: int) -> float:
    """Multiply-adds that the busiest compute unit does, in the first tile's; alone, a group waits for its copies."""
    tile, count = plan.tile, plan.tile.count(case) * plan.parts
    busiest, chunks = -(-2 * count // groups), -(-tile.chunks(case) // plan.parts)
    speed = SPEED[(LARGE_INT8 if tile.channels == 4 else LARGE).index(tile)] * ALONE.get(busiest, 1.0)
    sums = 20.0 * plan.parts * case.shape[1] * pixels(case) / (groups / 2) if plan.parts > 1 else 0.0
    return (busiest * (chunks + 4) * tile.d * tile.kt * tile.pt) / speed + sums


def tiled(plan: Plan, node: Node, case: Case) -> Packed:
    """(k, c, r, s) -> [r*s][c up to D][k up to KT]; with few channels [r*s*c up to D][k up to KT]"""
    assert node.weight is not None
    w = _portions(plan, case, node.weight.decode())
    return {"bias": packing.bias(node, case.shape[1]), "weights": w, "arrived": arrived(plan, case)}


def arrived(plan: Plan, case: Case) -> Array:
    """A counter for every tile that is shared, at zero whenever nobody is at work."""
    return np.zeros(plan.tile.count(case) if plan.parts > 1 else 1, np.int32)


def _portions(plan: Plan, case: Case, values: Array) -> Array:
    w = values.reshape(case.shape[1], case.inputs[0][1], taps(case)).transpose(2, 1, 0)
    w = w.reshape(1, -1, w.shape[2]) if few(case) else w
    return contiguous(packing.pad_axis(packing.pad_axis(w, 1, plan.tile.d), 2, plan.tile.kt))


def ternary_tiled(plan: Plan, node: Node, case: Case) -> Packed:
    """(k, c, r, s) -> the same order in two bits a weight, and what codes stand for"""
    weight = cast(Ternary, node.weight)
    codes = packing.words(4, _portions(plan, case, unpack(weight.codes, weight.cols)))
    return {
        "bias": packing.bias(node, case.shape[1]),
        "codes": codes,
        "table": packing.table(4, weight),
        "arrived": arrived(plan, case),
    }


def int8_tiled(plan: Plan, node: Node, case: Case) -> Packed:
    """(k, c, r, s) -> [r*s][c/4 up to D][k up to KT][4], and what finishes a sum"""
    weight = cast(Int8, node.weight)
    w = weight.values.reshape(case.shape[1], case.inputs[0][1], taps(case))
    w = packing.pad_axis(packing.pad_axis(w, 1, 4 * plan.tile.d), 0, plan.tile.kt)
    fours = w.reshape(len(w), -1, 4, w.shape[2]).transpose(3, 1, 0, 2)
    zero = weight.input.zero_point
    start = weight.integer_bias(node.bias) - zero * weight.values.sum(axis=1, dtype=np.int64)
    finish = packing.finish(node, case, 1, start.astype(np.int32))
    return {"weights": contiguous(fours), "zero": np.full(4, zero, np.int8).view(np.int32), **finish}


def sparse(node: Node, case: Case) -> Packed:
    """The stored weights row by row: where each one's pixels start and which tap it is, and its value."""
    weight, (_, c, h, w) = entries(node), (*case.inputs[0], 1, 1)[:4]
    groups, window = getattr(case.op, "groups", 1), case.op if isinstance(case.op, Window) else None
    r, s = window.kernel if window else (1, 1)
    down, across = window.dilation if window else (1, 1)
    channel, row, column = np.unravel_index(weight.indices.astype(np.int64), (c // groups, r, s))
    offset = (channel * h + row * down) * w + column * across
    pairs = np.stack([offset | (row * s + column) << 26, weight.values.view(np.int32)], 1).astype(np.uint32)
    ends = contiguous(weight.indptr[1:].astype(np.int32))
    pairs = pairs if len(pairs) else np.zeros((1, 2), np.uint32)
    return {"bias": packing.bias(node, case.shape[1]), "ends": ends, "entries": contiguous(pairs)}


def lanes(case: Case) -> int:
    """Pixels of a work-group of the sparse kernel: all there are, as far as their channels fit a first cache."""
    most = 256 if case.inputs[0][1] <= 128 and pixels(case) >= 2**14 else 64
    return max(1, min(most, 1 << (pixels(case) - 1).bit_length()))


def rows_at_once(case: Case) -> int:
    """Filters of a work-group of the sparse kernel: more than one where groups are many anyhow."""
    groups = case.shape[1] * -(-pixels(case) // lanes(case))
    return next((rows for rows in (16, 8, 4, 2) if groups >= 2048 * rows), 1)


def scratch(plan: Plan, case: Case) -> int:
    """Bytes of the parts' sums, whole tiles; never none, since the kernel has an argument for them."""
    return 4 * plan.parts * plan.tile.count(case) * plan.tile.kt * plan.tile.pt if plan.parts > 1 else 64


def depthwise(node: Node, case: Case) -> Packed:
    """w (c, r, s)"""
    w = packing.filters(node, case)
    return {"bias": packing.bias(node, len(w)), "weights": contiguous(w.astype(np.float32))}
