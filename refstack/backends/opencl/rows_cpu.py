"""The OpenCL rows for processors: heavy work-items on vectors of 16 lanes (accel/opencl/rs_cpu.cl)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from refstack.backends import packing, packing_sparse
from refstack.backends.needs import (
    channels_at_least,
    decoded,
    density_at_most,
    one_group,
    pixels_at_most,
    planes_fit,
    tiles_at_least,
    window_3x3,
)
from refstack.backends.opencl import packing_cpu
from refstack.backends.opencl.devices import Device
from refstack.backends.opencl.lanes_cpu import LANES, Pack, Size, V, alone, blocks, groups, phases, row
from refstack.backends.opencl.rows_cpu_int8 import int8, ternary8
from refstack.backends.opencl.rows_cpu_plain import plain
from refstack.backends.opencl.segment import runtime
from refstack.backends.opencl.tiles_cpu import DENSE, HALF, TERNARY, blocked, depthwise, small_maps
from refstack.backends.scratch import at_points
from refstack.kernels import Case, Kernel, Need
from refstack.winograd import F2, F4


def rows(device: Device) -> tuple[Kernel, ...]:
    """Best first for every op and format."""
    weighted = (*_dense(), *_csr(), *_ternary(), *int8(), *_linear())
    return (*weighted, *_half(), *ternary8(), *_unpacked(weighted), *plain(device))


def _unpacked(listed: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """What is packed for another format's kernel: half becomes dense and ternary8 int8 where no row of their own reads
    them as they are, bsr one csr entry for each weight."""
    formats = {"dense": "half", "csr": "bsr", "int8": "ternary8"}
    return tuple(replace(each, format=formats[each.format]) for each in listed if each.format in formats)


def _dense() -> tuple[Kernel, ...]:
    return (
        blocked("conv2d.dense.stem", "register tiles; few plain channels in", 1, DENSE, partial(packing.blocked, V, 1)),
        *(_winograd(m) for m in (4, 2)),
        small_maps("conv2d.dense.map", DENSE, packing.small_map),
        blocked("conv2d.dense.blocked", "register tiles", V, DENSE, partial(packing.blocked, V, V)),
        depthwise("conv2d.dense.depthwise", packing.depthwise),
    )


def _winograd(m: int) -> Kernel:
    algorithm = {4: F4, 2: F2}[m]
    points = (m + 2) ** 2

    def tiles(case: Case) -> int:
        return case.shape[0] * packing.tile_grid(m, case)[0]

    def lines(case: Case, channels: int) -> tuple[int, ...]:
        return case.shape[0] * -(-case.shape[2] // m), blocks(channels)

    def scratch(case: Case) -> int:
        return at_points(V, algorithm, tiles(case), case)

    sizes: dict[str, Size] = {
        "transform": lambda case: lines(case, case.inputs[0][1]),
        "multiply": lambda case: (-(-tiles(case) // 48), groups(2, case.shape[1]), points),
        "finish": lambda case: lines(case, case.shape[1]),
    }
    return row(
        f"conv2d.dense.winograd{m}", phases("conv2d_winograd_cpu", sizes, M=m),
        f"F({m},3): {points} products for {9 * m * m}",
        needs=(one_group, window_3x3, channels_at_least(V), tiles_at_least(8, m)), layouts=(LANES, LANES),
        pack=partial(packing.winograd, V, algorithm), scratch=scratch, blocks=(V, 2 * V, m, 2 * m), exact=False,
        algorithm=f"winograd{m}", nonfinite="spreads",
    )  # fmt: skip


def _half() -> tuple[Kernel, ...]:
    """Where few pixels share a weight its bytes are what takes time; elsewhere the rows of dense weights run."""
    pack = partial(packing.half_blocked, V)
    few = blocked("conv2d.half.blocked_half", "register tiles, two bytes a weight", V, HALF, pack)
    return (
        small_maps("conv2d.half.map_half", HALF, packing.half_map),
        replace(few, needs=(*few.needs, pixels_at_most(16))),
    )


def _csr() -> tuple[Kernel, ...]:
    linear = alone("linear_csr_cpu", "", lambda case: (-(-case.shape[1] // 16), case.shape[0]))
    return (
        *(decoded(_winograd(m)) for m in (4, 2)),
        _sparse("conv2d.csr.planar", "up to 8 vectors of pixels for each stored weight", 0, packing_sparse.csr_planar),
        row("linear.csr.chains", linear, "a stored weight at a time, four sums", pack=packing_sparse.csr_linear,
            blocks=(4, 16)),
    )  # fmt: skip


def _sparse(name: str, summary: str, ternary: int, pack: Pack, *more: Need) -> Kernel:
    def tile(case: Case) -> tuple[int, ...]:
        """Filters of a tile are shared out where tiles alone do not come out even; that changes no sum."""
        tiles, n, units = packing_cpu.tiles(V, case), case.shape[0], runtime().context.devices[0].max_compute_units
        return units if n * tiles % units else 1, tiles, n

    def planes(case: Case) -> tuple[int, ...]:
        n, c, _, _ = case.inputs[0]
        return 0 if packing_sparse.Planes.of(V, case).direct else c, packing_cpu.tiles(V, case), n

    def scratch(case: Case) -> int:
        return 4 * (math.prod(planes(case)) * packing_sparse.Planes.of(V, case).channel + 9 * V)

    return row(
        name, phases("conv2d_sparse_cpu", {"planes": planes, "conv": tile}, TERNARY=ternary), summary,
        needs=(planes_fit(V), *more), pack=partial(packing_cpu.sparse, V, pack), scratch=scratch, blocks=(V, 2, 4, 8),
    )  # fmt: skip


def _ternary() -> tuple[Kernel, ...]:
    few = "register tiles from 2-bit codes; few plain channels in"
    pack, stem = (partial(packing.ternary_blocked, V, v_in) for v_in in (V, 1))
    return (
        small_maps("conv2d.ternary.map", TERNARY, packing.ternary_map),
        replace(depthwise("conv2d.ternary.depthwise", packing.depthwise), nonfinite="spreads"),
        _sparse("conv2d.ternary.planar", "two lists of taps, no multiplications", 1, packing_sparse.ternary_planar,
                density_at_most(0.25)),
        blocked("conv2d.ternary.stem", few, 1, TERNARY, stem),
        blocked("conv2d.ternary.blocked", "register tiles from 2-bit codes", V, TERNARY, pack),
    )  # fmt: skip


def _linear() -> tuple[Kernel, ...]:
    def one(name: str, format: int, pack: Pack, nonfinite: str = "exact") -> Kernel:
        launch = alone("linear_cpu", "", lambda case: (blocks(case.shape[1]),), FORMAT=format)
        summary = "a vector of features at a time, weights read once"
        return row(name, launch, summary, pack=partial(pack, V), blocks=(V, 4), nonfinite=nonfinite)

    return (
        one("linear.dense.blocked", DENSE, packing.linear_blocked),
        one("linear.half.blocked_half", HALF, packing_cpu.half_linear),
        one("linear.ternary.blocked", TERNARY, packing.ternary_linear, "spreads"),
    )
