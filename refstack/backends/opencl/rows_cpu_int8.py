"""Integer rows for processors: four-byte dot products."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from refstack.backends import packing
from refstack.backends.opencl.lanes_cpu import Pack, Size, V, alone, blocks, conv, phases, row
from refstack.backends.opencl.tiles_cpu import (
    DENSE,
    FLAT,
    blocked,
    columns,
    depthwise,
    flat,
    map_of,
    small_maps,
    tiles,
)  # fmt: skip
from refstack.kernels import Case, Kernel


def int8() -> tuple[Kernel, ...]:
    """Best first."""
    linear = alone("linear_int8_cpu", "", lambda case: (blocks(case.shape[1]),))
    return (
        _tiles("conv2d.int8.stem", "tiles of four-byte dot products; few plain channels in", 4),
        _map("conv2d.int8.map", packing.int8_map, TERNARY=0),
        _tiles("conv2d.int8.blocked", "tiles of four-byte dot products", V),
        depthwise("conv2d.int8.depthwise", packing.int8_depthwise, "conv2d_int8_depthwise_cpu"),
        row("linear.int8.blocked", linear, "four-byte dot products, a vector of features at a time",
            pack=partial(packing.int8_linear, V), blocks=(V, 4, 16)),
    )  # fmt: skip


def ternary8() -> tuple[Kernel, ...]:
    """Where few pixels share a weight its bytes are what takes time; elsewhere the rows of int8 run."""
    return (_map("conv2d.ternary8.map2", packing.ternary8_map, TERNARY=1),)


def _tiles(name: str, summary: str, lanes: int) -> Kernel:
    """conv2d_int8_blocked_cpu.cl: rows of float32 tiles with other sources."""

    def scratch(case: Case) -> int:
        (n, c, h, _), (top, _, bottom, _) = case.inputs[0], conv(case).padding
        if flat(case):
            return math.prod(tiles(case)) * FLAT * blocks(c, lanes) * lanes
        return n * blocks(c, lanes) * lanes * (top + h + bottom) * columns(case)

    def pad(case: Case) -> tuple[int, ...]:
        (n, c, h, _), (top, _, bottom, _) = case.inputs[0], conv(case).padding
        return 0 if flat(case) else -(-(top + h + bottom) // 16), n * blocks(c, lanes)

    floats = blocked(name, summary, V if lanes == V else 1, DENSE, partial(packing.int8_blocked, V, lanes))
    return replace(
        floats, run=phases("conv2d_int8_blocked_cpu", {"pad": pad, "conv": tiles}, CB=lanes), scratch=scratch
    )  # fmt: skip


def _map(name: str, pack: Pack, **defines: int) -> Kernel:
    def scratch(case: Case) -> int:
        n, c, h, w = case.inputs[0]
        return n * blocks(c) * V * h * w

    sizes: dict[str, Size] = {
        "offset": lambda case: (case.shape[0] * blocks(case.inputs[0][1]),),
        "conv": lambda case: (case.shape[0], blocks(case.shape[1])),
    }
    launches = phases("conv2d_int8_map_cpu", sizes)
    run = tuple(replace(launch, defines=lambda case: {**map_of(case), **defines}) for launch in launches)
    return replace(small_maps(name, DENSE, pack), run=run, scratch=scratch)
