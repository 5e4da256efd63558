"""Rows for GPUs: tiles in local memory, many light work-items, sums shared out where a layer has few pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from refstack.backends.opencl import packing_gpu as packing
from refstack.backends.opencl.devices import Device
from refstack.backends.opencl.packing_gpu import ITEMS, Plan, groups_of
from refstack.backends.opencl.segment import Launch
from refstack.backends.packing import half
from refstack.kernels import Case, Kernel
from refstack.ops import Window

MOST_TAPS = 32
"""Bits of a word, and what is left of an entry beside 26 bits of offset."""


def rows_gpu(device: Device) -> tuple[Kernel, ...]:
    """Best first."""
    groups = groups_of(device)

    @cache
    def planned(case: Case) -> Plan:
        return packing.choose(case, groups, device.local_bytes)

    tiles = [tile_row(op, format, planned) for op in ("conv2d", "linear") for format in ("dense", "half", "ternary")]
    sparse = [_sparse(op, format) for op in ("conv2d", "linear") for format in ("csr", "bsr", "ternary")]
    tiles += [_int8(op, format, planned) for op in ("conv2d", "linear") for format in ("int8", "ternary8")]
    return (*(_depthwise(format) for format in ("dense", "half")), *tiles, *sparse)


def tile_row(op: str, format: str, planned: Callable[[Case], Plan]) -> Kernel:
    """conv2d_dense_tile.cl with the plan of each case."""
    stored = {"HALF": int(format == "half"), "TERNARY": int(format == "ternary")}
    pack = packing.ternary_tiled if format == "ternary" else packing.tiled
    run = _in_parts("conv2d_dense_tile", None, planned, lambda case: {**stored, "FEW": int(packing.few(case))})
    row = Kernel(
        op, format, "", "tile", run, needs=(_one_group,), pack=lambda node, case: pack(planned(case), node, case),
        scratch=lambda case: packing.scratch(planned(case), case), blocks=(4, 16, 64),
        nonfinite="spreads" if format == "ternary" else "exact",
        summary="tiles in local memory; small maps: the sum in parts",
    )  # fmt: skip
    return replace(row, pack=lambda node, case: half(pack(planned(case), node, case))) if format == "half" else row


def _int8(op: str, format: str, planned: Callable[[Case], Plan]) -> Kernel:
    total = Launch("conv2d_int8_sum", each, (ITEMS,), walks=True)
    run = _in_parts("conv2d_int8_tile", total, planned, lambda case: {})
    return Kernel(
        op, format, "", "tile", run, needs=(_one_group,),
        pack=lambda node, case: packing.int8_tiled(planned(case), node, case),
        scratch=lambda case: packing.scratch(planned(case), case), blocks=(4, 16, 64),
        summary="four channels in a word, tiles in local memory",
    )  # fmt: skip


def _in_parts(
    source: str, total: Launch | None, planned: Callable[[Case], Plan], stored: Callable[[Case], Mapping[str, int]]
) -> Launch:
    """Tiles as the plan of each case has them; `total` adds up the parts, if there are several and they do not."""

    def size(case: Case) -> tuple[int]:
        plan = planned(case)
        return (plan.tile.items * plan.parts * plan.tile.count(case),)

    return Launch(
        source, size, (), lambda case: {**planned(case).tile.defines, **stored(case)},
        parts=lambda case: planned(case).parts, then=lambda case: total if planned(case).parts > 1 else None,
        room=lambda case: planned(case).tile.room, walks=True,
    )  # fmt: skip


def each(case: Case) -> tuple[int]:
    """A work-item for every number of the output, whole groups of them."""
    return (-(-math.prod(case.shape) // ITEMS) * ITEMS,)


def _one_group(case: Case) -> str | None:
    groups = getattr(case.op, "groups", 1)
    return None if groups == 1 else f"groups={groups}, this kernel has every filter read every channel"


def _sparse(op: str, format: str) -> Kernel:
    def size(case: Case) -> tuple[int]:
        blocks = -(-case.shape[1] // packing.rows_at_once(case))
        return (ITEMS * blocks * -(-packing.pixels(case) // packing.lanes(case)),)

    def defines(case: Case) -> dict[str, int]:
        return {"PT": packing.lanes(case), "ROWS": packing.rows_at_once(case)}

    run = Launch("conv2d_csr_gpu", size, (ITEMS,), defines, room=lambda case: ITEMS, walks=True)
    needs, summary = (_few_taps, _short_offsets), "a filter and some pixels for a group, teams share the stored weights"
    return Kernel(op, format, "", "gpu", run, needs=needs, pack=packing.sparse, blocks=(4, 16, 64), summary=summary)


def _few_taps(case: Case) -> str | None:
    taps = packing.taps(case)
    return None if taps <= MOST_TAPS else f"{taps} taps, this kernel marks at most {MOST_TAPS} in a word"


def _short_offsets(case: Case) -> str | None:
    op = case.op
    _, c, h, w = (*case.inputs[0], 1, 1)[:4]
    reach = c * h * w + (sum(op.kernel) * max(op.dilation) * (w + 1) if isinstance(op, Window) else 0)
    return None if reach < 2**26 else f"an image of {c}x{h}x{w}, this kernel's offsets have 26 bits"


def _depthwise(format: str) -> Kernel:
    def each_has_one(case: Case) -> str | None:
        groups, channels = getattr(case.op, "groups", 1), case.inputs[0][1]
        if groups == channels == case.shape[1]:
            return None
        return f"groups={groups}, this kernel wants one filter for each of {channels} channels"

    halves = int(format == "half")
    run = Launch("conv2d_dense_depthwise_gpu", each, (ITEMS,), lambda case: {"HALF": halves}, walks=True)
    pack = (lambda node, case: half(packing.depthwise(node, case))) if halves else packing.depthwise
    needs, summary = (each_has_one,), "nine loads at once, nothing shared"
    return Kernel("conv2d", format, "", "depthwise_gpu", run, needs=needs, pack=pack, summary=summary)
