"""Rows for processors that hold tiles of pixels in registers, float32 and int8 alike: how they are called."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from refstack.backends import packing
from refstack.backends.needs import channels_below, one_group, small_map
from refstack.backends.needs import depthwise as one_filter_a_channel
from refstack.backends.opencl.lanes_cpu import LANES, Pack, V, alone, blocks, conv, groups, phases, row
from refstack.kernels import Case, Kernel

DENSE, HALF, TERNARY = 0, 1, 2
"""FORMAT of rs_weights_cpu.cl."""

FLAT = 48
"""Pixels of a work-item where 1x1 at stride 1 knows no rows."""


def flat(case: Case) -> bool:
    """Whether a layer is 1x1 at stride 1."""
    return conv(case).kernel == conv(case).stride == (1, 1) and not any(conv(case).padding)


def tiles(case: Case) -> tuple[int, ...]:
    """Rows, or pieces of so many pixels; images; groups of blocks."""
    n, k, p, q = case.shape
    return -(-p * q // FLAT) if flat(case) else p, n, groups(packing.blocks_at_once(V, case), k)


def columns(case: Case) -> int:
    """Numbers of a padded row, by residues modulo the stride; a filter of one column needs one residue."""
    (_, left, _, right), (_, stride), (_, s) = conv(case).padding, conv(case).stride, conv(case).kernel
    return (stride if s > 1 else 1) * -(-(left + case.inputs[0][3] + right) // stride)


def blocked(name: str, summary: str, v_in: int, format: int, pack: Pack) -> Kernel:
    """Register tiles of conv2d_blocked_cpu.cl on nchw16c, or on few channels of nchw (v_in = 1)."""

    def copied(case: Case) -> bool:
        """Rows that are padded or strided are copied first."""
        return bool(conv(case).padding[1] or conv(case).padding[3] or conv(case).stride[1] > 1)

    def pad(case: Case) -> tuple[int, ...]:
        n, c, h, _ = case.inputs[0]
        return (n * blocks(c, v_in) * h if copied(case) else 0,)

    def scratch(case: Case) -> int:
        """A few bytes where nothing is copied, since an argument needs a buffer."""
        return 4 * pad(case)[0] * v_in * columns(case) or 64

    source, few = (LANES, ()) if v_in == V else ("nchw", (channels_below(V),))
    return row(
        name, phases("conv2d_blocked_cpu", {"pad": pad, "conv": tiles}, VIN=v_in, FORMAT=format), summary,
        needs=(one_group, *few), layouts=(source, LANES), pack=pack, scratch=scratch, blocks=(V, 2, 4, 8, 12),
        nonfinite="spreads",
    )  # fmt: skip


def map_of(case: Case) -> dict[str, int]:
    """Outputs of a side and stride: 4 or 2, 1 or 2, each pair compiled for itself."""
    return {"P": case.shape[2], "ST": conv(case).stride[0]}


def small_maps(name: str, format: int, pack: Pack) -> Kernel:
    """conv2d_map_cpu.cl."""

    def size(case: Case) -> tuple[int, ...]:
        n, k, p, _ = case.shape
        return n, groups(1 if p == 4 else 4, k)

    launch = replace(alone("conv2d_map_cpu", "", size), defines=lambda case: {"FORMAT": format, **map_of(case)})
    return row(
        name, launch, "a whole 4x4 or 2x2 map in registers, nothing on padding", needs=(one_group, small_map),
        layouts=(LANES, LANES), pack=partial(pack, V), blocks=(V, 2 * V, 4 * V), nonfinite="spreads",
    )  # fmt: skip


def depthwise(name: str, pack: Pack, source: str = "conv2d_depthwise_cpu") -> Kernel:
    """One filter a channel."""

    def size(case: Case) -> tuple[int, ...]:
        n, c, p, q = case.shape
        return -(-p // -(-32 // q)), n * blocks(c)

    return row(
        name, alone(source, "", size), "vectors of channels, some pixels in registers", needs=(one_filter_a_channel,),
        layouts=(LANES, LANES), pack=partial(pack, V), blocks=(V, 2, 4, 8),
    )  # fmt: skip
