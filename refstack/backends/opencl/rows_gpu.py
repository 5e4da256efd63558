"""Rows for GPUs: tiles in local memory, many light work-items, sums shared out where a layer has few pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import cast

from refstack.backends.opencl import packing_gpu as packing
from refstack.backends.opencl.devices import Device
from refstack.backends.opencl.packing_gpu import ITEMS, Plan
from refstack.backends.opencl.segment import Launch
from refstack.backends.packing import half
from refstack.kernels import Case, Kernel
from refstack.ops import Conv2d

UNIT_GROUPS = 2
"""Work-groups that a compute unit of a GPU holds at once: 128 registers for each work-item."""
GROUPS = 264
"""The same of a whole device, where it is no GPU: those of an H100, so that tests take its paths."""


def groups_of(device: Device) -> int:
    """Work-groups that run at once."""
    return UNIT_GROUPS * device.compute_units if device.kind == "gpu" else GROUPS


def rows_gpu(device: Device) -> tuple[Kernel, ...]:
    """Best first."""
    groups = groups_of(device)

    @cache
    def planned(case: Case) -> Plan:
        return packing.choose(case, groups)

    return (*_depthwise(), *(tile_row(op, half, planned) for op in ("conv2d", "linear") for half in (0, 1)))


def tile_row(op: str, halves: int, planned: Callable[[Case], Plan], variant: str = "tile") -> Kernel:
    """conv2d_dense_tile.cl with the plan of each case."""

    def size(case: Case) -> tuple[int]:
        return (ITEMS * planned(case).parts * planned(case).tile.count(case),)

    def then(case: Case) -> Launch | None:
        return total if planned(case).parts > 1 else None

    def defines(case: Case) -> dict[str, int]:
        return {**planned(case).tile.defines, "HALF": halves}

    def each(case: Case) -> tuple[int]:
        return (-(-case.shape[1] * packing.pixels(case) // ITEMS) * ITEMS,)

    file = "conv2d_dense_tile"
    total = Launch(file, each, (ITEMS,), defines, "conv2d_dense_sum")
    run = Launch(file, size, (ITEMS,), defines, parts=lambda case: planned(case).parts, then=then)
    pack = packing.tiled
    return Kernel(
        op, "half" if halves else "dense", "", variant, run,
        needs=(_one_group,),
        pack=lambda node, case: half(pack(planned(case), node, case)) if halves else pack(planned(case), node, case),
        scratch=lambda case: packing.scratch(planned(case), case),
        blocks=(4, 16, 64), summary="tiles in local memory; small maps: the sum in parts",
    )  # fmt: skip


def _one_group(case: Case) -> str | None:
    if getattr(case.op, "groups", 1) > 1:
        return f"groups={cast(Conv2d, case.op).groups}, this kernel has every filter read every channel"
    return None


def _depthwise() -> tuple[Kernel, ...]:
    def each_has_one(case: Case) -> str | None:
        op = cast(Conv2d, case.op)
        if op.groups == case.inputs[0][1] == op.out_channels:
            return None
        return f"groups={op.groups}, this kernel wants one filter for each of {case.inputs[0][1]} channels"

    def each(case: Case) -> tuple[int]:
        return (-(-case.shape[1] * packing.pixels(case) // ITEMS) * ITEMS,)

    run = Launch("conv2d_dense_depthwise_gpu", each, (ITEMS,))
    needs, summary = (each_has_one,), "nine loads at once, nothing shared"
    return (Kernel("conv2d", "dense", "", "depthwise_gpu", run, needs=needs, pack=packing.depthwise, summary=summary),)
