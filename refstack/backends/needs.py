"""What kernels need: predicates over a case that answer None, or the reason why not in plain words.

A function that takes a number makes such a predicate; v is the number of float32 in a vector. `decoded` makes a row of
another one that needs more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from refstack.backends import packing, packing_images, packing_sparse
from refstack.kernels import Case, Kernel, Need, Reorder, misfit, patch_grid
from refstack.ops import Conv2d, Window


def one_group(case: Case) -> str | None:
    groups = cast(Conv2d, case.op).groups
    return None if groups == 1 else f"groups is {groups}, this kernel needs 1"


def depthwise(case: Case) -> str | None:
    op, c = cast(Conv2d, case.op), case.inputs[0][1]
    if op.groups == c == op.out_channels:
        return None
    return f"groups is {op.groups} with c={c} and k={op.out_channels}, this kernel needs them equal (depthwise)"


def stride_at_most(most: int) -> Need:
    def need(case: Case) -> str | None:
        stride = max(cast(Conv2d, case.op).stride)
        return None if stride <= most else f"stride is {stride}, this kernel needs at most {most}"

    return need


def small_map(case: Case) -> str | None:
    op, (_, _, h, w), (_, _, p, q) = cast(Conv2d, case.op), case.inputs[0], case.shape
    if op.kernel != (3, 3) or op.padding != (1, 1, 1, 1) or op.dilation != (1, 1):
        return f"kernel {op.kernel}, padding {op.padding}, dilation {op.dilation}; this kernel needs 3x3, 1 and 1"
    if op.stride not in ((1, 1), (2, 2)) or p != q or p not in (2, 4) or (h, w) != (p * op.stride[0], p * op.stride[0]):
        return f"output is {p}x{q} at stride {op.stride}, this kernel needs 2x2 or 4x4 at stride 1 or 2"
    return None


def small_map_or_8x8(case: Case) -> str | None:
    reason = small_map(case)
    if window_3x3(case) is None and cast(Conv2d, case.op).padding == (1, 1, 1, 1) and case.shape[2:] == (8, 8):
        return None
    return reason and f"{reason}, or 8x8 at stride 1"


def window_3x3(case: Case) -> str | None:
    op = cast(Conv2d, case.op)
    if (op.kernel, op.stride, op.dilation) == ((3, 3), (1, 1), (1, 1)):
        return None
    return f"kernel {op.kernel}, stride {op.stride}, dilation {op.dilation}; this kernel needs 3x3, 1 and 1"


def tiles_at_least(least: int, m: int) -> Need:
    """Fewer do not make up for the larger weights; and half of what they compute must be asked for."""

    def need(case: Case) -> str | None:
        n, _, p, q = case.shape
        tiles = n * packing.tile_grid(m, case)[0]
        if tiles < least:
            return f"{tiles} tiles of {m}x{m} outputs, this kernel is for at least {least}"
        return None if 2 * n * p * q >= tiles * m * m else f"{p}x{q} outputs fill less than half of their {m}x{m} tiles"

    return need


def rows_beyond(most: int) -> Need:
    """A map of one tile needs no more products directly, without those on padding."""

    def need(case: Case) -> str | None:
        rows = case.shape[2]
        return None if rows > most else f"output has {rows} rows, this kernel is for more than {most}"

    return need


def channels_at_least(least: int) -> Need:
    def need(case: Case) -> str | None:
        c, k = case.inputs[0][1], case.shape[1]
        return None if min(c, k) >= least else f"{c} and {k} channels, this kernel is for at least {least}"

    return need


def planes_fit(v: int) -> Need:
    def need(case: Case) -> str | None:
        planes = packing_sparse.Planes.of(v, case)
        if planes.channel <= planes.room:
            return None
        return f"the planes of a channel are {planes.channel} numbers, this kernel has room for {planes.room}"

    return need


def density_at_most(most: float) -> Need:
    def need(case: Case) -> str | None:
        return None if case.density <= most else f"density is {case.density:.2f}, this kernel is for at most {most}"

    return need


def density_at_least(least: float) -> Need:
    def need(case: Case) -> str | None:
        return None if case.density >= least else f"density is {case.density:.2f}, this kernel is for at least {least}"

    return need


def columns_at_least(v: int, least: float) -> Need:
    """Columns (image, pixel), of which that share of the last vector's lanes must be used."""

    def need(case: Case) -> str | None:
        op, (n, _, p, q) = cast(Conv2d, case.op), case.shape
        if (op.kernel, op.stride) != ((1, 1), (1, 1)):
            return f"kernel {op.kernel}, stride {op.stride}; this kernel needs 1x1 and 1"
        return _lanes_used(n * p * q, v, least)

    return need


def images_at_least(v: int) -> Need:
    """Vectors of images: how many of their lanes must be used so that they beat vectors of pixels (docs/sparse.md)."""

    def need(case: Case) -> str | None:
        op, (n, _, p, q) = cast(Conv2d, case.op), case.shape
        if op.kernel == op.stride == (1, 1) and n % v:
            return f"{n} images; of a 1x1 layer this kernel needs a multiple of {v}, as its neighbours do"
        return _lanes_used(n, v, 0.25 if p * q <= 4 else 0.5 if p * q <= 16 else 0.8)

    return need


def vectors_at_least(v: int, least: float) -> Need:
    return lambda case: _lanes_used(case.inputs[0][0], v, least)


def whole_vectors(v: int) -> Need:
    def need(case: Case) -> str | None:
        n = case.inputs[0][0]
        return f"{n} images, this kernel needs a multiple of {v}" if n % v else None

    return need


def _lanes_used(used: int, v: int, least: float) -> str | None:
    lanes = -(-used // v) * v
    return None if used >= least * lanes else f"{used} of {lanes} lanes are used, this kernel needs {least:.0%}"


def window_1x1_or_3x3(case: Case) -> str | None:
    op = cast(Conv2d, case.op)
    if op.dilation != (1, 1) or op.stride not in ((1, 1), (2, 2)) or op.kernel not in ((1, 1), (3, 3)):
        return (
            f"kernel {op.kernel}, stride {op.stride}, dilation {op.dilation}; this kernel needs 1x1 or 3x3 at stride "
            "1 or 2 without dilation"
        )
    return None


def patches_of(v: int) -> Need:
    """Images that fall into patches of several pixels, whose convolution is one of patches, too."""

    def need(case: Case) -> str | None:
        op, (_, _, h, w), (_, _, p, q) = cast(Conv2d, case.op), case.inputs[0], case.shape
        rows, cols = patch_grid(v)
        r, st, pd = op.kernel[0], op.stride[0], op.padding
        if window_1x1_or_3x3(case) or op.stride != (st, st) or op.kernel != (r, r) or pd != (r // 2,) * 4:
            return f"{op}; this kernel needs 1x1 or 3x3 at stride 1 or 2 with padding of half a window"
        if reason := misfit(f"nchw{v}p", case.inputs[0], op.stride):
            return reason
        if h * w == v:
            return f"image is {h}x{w}, this kernel needs patches of several pixels"
        used, (tall, wide) = p * q // v, packing_images.Batch(case, v, True).tile
        tiles = used if r == 1 else -(-p // rows // tall) * -(-q // cols // wide) * tall * wide
        return None if used >= 0.75 * tiles else f"{used} of {tiles} vectors of its tiles are used, wanted 75%"

    return need


def whole_patches(v: int) -> Need:
    """Windows side by side, none of which lies in two patches; or single pixels."""

    def need(case: Case) -> str | None:
        if reason := image(case):
            return reason
        if not isinstance(case.op, Window):
            return misfit(f"nchw{v}p", case.inputs[0])
        op = case.op
        if op.kernel != op.stride or any(op.padding) or op.dilation != (1, 1):
            return f"windows {op.kernel} at {op.stride}, padding {op.padding}; this kernel needs them side by side"
        return misfit(f"nchw{v}p", case.inputs[0], op.kernel)

    return need


def pixels_at_most(most: int) -> Need:
    def need(case: Case) -> str | None:
        n, _, p, q = case.shape
        return None if n * p * q <= most else f"{n * p * q} pixels, this kernel is for at most {most}"

    return need


def channels_below(limit: int) -> Need:
    def need(case: Case) -> str | None:
        c = case.inputs[0][1]
        return None if c < limit else f"c is {c}, this kernel is for fewer than {limit} channels"

    return need


def image(case: Case) -> str | None:
    axes = len(case.inputs[0])
    return None if axes == 4 else f"input has {axes} axes, a blocked layout needs 4"


def whole_blocks(v: int) -> Need:
    """All inputs but the last must fill their blocks, or lanes of zeros would end up between channels."""

    def need(case: Case) -> str | None:
        for i, shape in enumerate(case.inputs[:-1]):
            if shape[1] % v:
                return f"input {i} has {shape[1]} channels, this kernel needs a multiple of {v}"
        return None

    return need


def between(*layouts: str) -> Need:
    def need(case: Case) -> str | None:
        op = cast(Reorder, case.op)
        if op.source != op.target and "nchw" in (op.source, op.target) and {op.source, op.target} <= set(layouts):
            return None
        return f"layouts are {op.source} and {op.target}, this kernel goes between {' and '.join(layouts)}"

    return need


def from_to(sources: tuple[str, ...], targets: tuple[str, ...]) -> Need:
    def need(case: Case) -> str | None:
        op = cast(Reorder, case.op)
        if op.source in sources and op.target in targets:
            return None
        wanted = f"{' or '.join(sources)} to {' or '.join(targets)}"
        return f"layouts are {op.source} and {op.target}, this kernel goes from {wanted}"

    return need


def decoded(row: Kernel, least: float = 0.25) -> Kernel:
    """Winograd for layers that kept too much to win by what is gone: zeros are multiplied, but seldom.

    Where more is gone the sparse row wins (docs/sparse.md). Where few weights make a sum, the plain loop over them is
    so exact that Winograd's errors would be too large beside its.
    """
    enough = (channels_at_least(32), density_at_least(least))
    return replace(row, format="csr", summary=f"{row.summary}; zeros, too", needs=(*row.needs, *enough))
