"""The OpenMP rows: which C kernel computes what, what it needs, and how much working memory it takes.

V is the number of float32 in a vector of this build (16 with AVX-512), and nchw<V>c the blocked layout that most
kernels prefer: V channels of one pixel side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from refstack.backends import packing, packing_images, packing_sparse
from refstack.kernels import Case, Kernel, Need, Reorder
from refstack.ops import Conv2d
from refstack.winograd import F2, F4, Winograd

# What kernels need: None, or the reason why not in plain words.


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


# Working memory.


def padded_image(v_in: int, case: Case) -> int:
    """One image whose rows are padded left and right."""
    op, (_, c, h, w) = cast(Conv2d, case.op), case.inputs[0]
    _, left, _, right = op.padding
    return 4 * -(-c // v_in) * v_in * h * (left + w + right) if left or right else 0


def framed_image(lanes: int, case: Case) -> int:
    """One int8 image, padded on all sides."""
    op, (_, c, h, w) = cast(Conv2d, case.op), case.inputs[0]
    top, left, bottom, right = op.padding
    return -(-c // lanes) * lanes * (top + h + bottom) * (left + w + right)


def framed_strips(v: int, case: Case) -> int:
    """Inputs of 3x3 filters for every eight rows of outputs of an int8 image, padded, and a vector behind them."""
    op, (_, c, _, w) = cast(Conv2d, case.op), case.inputs[0]
    _, left, _, right = op.padding
    rows = 7 * op.stride[0] + 3
    return -(-c // v) * -(-case.shape[2] // 8) * rows * (left + w + right) * v + 64


def offset_image(lanes: int, case: Case) -> int:
    """All int8 images, unpadded."""
    n, c, h, w = case.inputs[0]
    return n * -(-c // lanes) * lanes * h * w


def transformed(v: int, algorithm: Winograd, case: Case) -> int:
    """The tiles of one pass at all points, inputs and products."""
    tiles, images = packing.tile_grid(algorithm.m, case)
    channels = sum(-(-c // v) * v for c in (case.inputs[0][1], case.shape[1]))
    return 4 * (algorithm.m + 2) ** 2 * tiles * images * channels


def points(v: int, case: Case) -> int:
    """The tiles of one pass at all 36 points, two bytes each."""
    tiles, images = packing.tile_grid(4, case)
    return 2 * 36 * tiles * images * -(-case.inputs[0][1] // v) * v


def offset_vectors(case: Case) -> int:
    """The inputs of an int8 linear layer, each rounded up to four bytes."""
    n, c = case.inputs[0]
    return n * -(-c // 4) * 4


def lines_of_vectors(v: int, case: Case) -> int:
    """The inputs of a linear layer with images side by side."""
    n, c = case.inputs[0]
    return 4 * -(-n // v) * v * c


def rows(backend: str, v: int) -> tuple[Kernel, ...]:
    """Best first for every op and format, for vectors of v floats."""
    weighted = (*_dense(v), *_csr(v), *_ternary(v), *_int8(v), *_linear(v))
    listed = (*weighted, *_half(v), *_ternary8(v), *_unpacked(weighted), *_pointwise(v), *_movement(v))
    return tuple(replace(row, backend=backend) for row in listed)


def _unpacked(rows: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """What is packed for another format's kernel: half becomes dense and ternary8 int8 where no row of their own
    reads them as they are, bsr one csr entry for each weight."""
    formats = {"dense": "half", "csr": "bsr", "int8": "ternary8"}
    return tuple(replace(row, format=formats[row.format]) for row in rows if row.format in formats)


def _row(name: str, run: str, summary: str, **fields: Any) -> Kernel:
    """A row that reads and writes nchw unless `layouts` says otherwise; its name is op.format.variant."""
    op, format, variant = name.split(".")
    return Kernel(op, format, "", variant, f"rs_{run}", summary=summary, **fields)


def _tiles(v: int) -> dict[str, Any]:
    """What all rows on register tiles share: blocked channels in and out."""
    lanes = f"nchw{v}c"
    return {
        "needs": (one_group, stride_at_most(2)), "layouts": (lanes, lanes), "blocks": (v, 4, 6, 8, 12),
        "nonfinite": "spreads",  # lanes beyond c and k multiply zeros
    }  # fmt: skip


def _stem(v: int) -> dict[str, Any]:
    """The first layer: few plain channels in, blocked channels out."""
    needs = (one_group, stride_at_most(2), channels_below(v))
    return {**_tiles(v), "needs": needs, "layouts": ("nchw", f"nchw{v}c")}


def _map(v: int) -> dict[str, Any]:
    return {**_tiles(v), "needs": (one_group, small_map), "blocks": (v, 2 * v, 4 * v)}


def _depthwise(v: int) -> dict[str, Any]:
    return {**_tiles(v), "needs": (depthwise,), "blocks": (v, 2, 4, 8), "nonfinite": "exact"}


def _dense(v: int) -> tuple[Kernel, ...]:
    return (
        _row("conv2d.dense.stem", "conv2d_dense_blocked", "register tiles; few plain channels in, blocked ones out",
             pack=partial(packing.blocked, v, 1), scratch=partial(padded_image, 1), **_stem(v)),
        _row("conv2d.dense.stem_batch", "conv2d_csr_batch", "few channels, images side by side", joins=True,
             needs=(one_group, window_1x1_or_3x3, channels_below(v), whole_vectors(v)), layouts=(f"nchw{v}n",) * 2,
             pack=partial(packing_images.csr_batch, v), blocks=(v, 4, 8)),
        *(_winograd(v, m) for m in (4, 2)),
        *wide(v, _row("conv2d.dense.map", "conv2d_dense_map", "a whole 4x4 or 2x2 map in registers, nothing on padding",
                      pack=partial(packing.small_map, v), **_map(v))),
        _row("conv2d.dense.blocked", "conv2d_dense_blocked", "register tiles of 2 or 4 blocks x up to 12 pixels",
             pack=partial(packing.blocked, v, v), scratch=partial(padded_image, v), **_tiles(v)),
        _row("conv2d.dense.depthwise", "conv2d_dense_depthwise", "vectors of channels, up to 8 pixels in registers",
             pack=partial(packing.depthwise, v), **_depthwise(v)),
        _row("conv2d.dense.depthwise_batch", "conv2d_dense_depthwise_batch", "vectors of images, up to 8 pixels",
             pack=partial(packing_images.depthwise_batch, v), joins=True,
             **_depthwise(v) | {"needs": (depthwise, whole_vectors(v)), "layouts": (f"nchw{v}n",) * 2}),
        _row("conv2d.dense.direct", "conv2d_dense_direct", "the plain loop", pack=packing.direct),
    )  # fmt: skip


def _winograd(v: int, m: int) -> Kernel:
    algorithm, least = {4: (F4, 8), 2: (F2, 8)}[m]
    return _row(
        f"conv2d.dense.winograd{m}", f"conv2d_dense_winograd{m}", f"F({m},3): {(m + 2) ** 2} products for {9 * m * m}",
        needs=(one_group, window_3x3, channels_at_least(v), tiles_at_least(least, m)), layouts=(f"nchw{v}c",) * 2,
        pack=partial(packing.winograd, v, algorithm), scratch=partial(transformed, v, algorithm),
        blocks=(v, 2 * v, m, 2 * m), exact=False, algorithm=f"winograd{m}", nonfinite="spreads",
    )  # fmt: skip


def wide(v: int, row: Kernel) -> tuple[Kernel, ...]:
    """No row without AVX-512: a 4x4 map needs 16 accumulators beside its weights."""
    return (row,) if v == 16 else ()


def _half(v: int) -> tuple[Kernel, ...]:
    """Where few pixels share a weight its bytes are what takes time; elsewhere the rows of dense weights run."""
    return (
        *wide(v, _row("conv2d.half.map16", "conv2d_half_map", "a whole 4x4 or 2x2 map in registers, two bytes a weight",
                      pack=partial(packing.half_map, v), **_map(v))),
        _row("conv2d.half.blocked16", "conv2d_half_blocked", "register tiles, two bytes a weight",
             pack=partial(packing.half_blocked, v), scratch=partial(padded_image, v),
             **_tiles(v) | {"needs": (one_group, stride_at_most(2), pixels_at_most(16))}),
    )  # fmt: skip


def _csr(v: int) -> tuple[Kernel, ...]:
    return (
        _row("conv2d.csr.batch", "conv2d_csr_batch", "vectors of one pixel of many images side by side",
             needs=(one_group, window_1x1_or_3x3, images_at_least(v)), layouts=(f"nchw{v}n",) * 2,
             pack=partial(packing_images.csr_batch, v), blocks=(v, 4, 8)),
        _row("conv2d.csr.columns", "conv2d_csr_columns", "vectors of columns (image, pixel), 1x1",
             needs=(one_group, columns_at_least(v, 0.25)), layouts=(f"nchw{v}c",) * 2,
             pack=partial(packing_images.csr_columns, v), blocks=(v, 4, 8)),
        _row("conv2d.csr.planar", "conv2d_csr_planar", "up to 8 vectors of pixels for each stored weight",
             needs=(planes_fit(v),), pack=partial(packing_sparse.csr_planar, v), blocks=(v, 2, 4, 8)),
        _row("conv2d.csr.direct", "conv2d_csr_direct", "the plain loop", pack=packing_sparse.csr_direct),
    )  # fmt: skip


def _ternary(v: int) -> tuple[Kernel, ...]:
    return (
        *wide(v, _row("conv2d.ternary.map", "conv2d_ternary_map", "a whole 4x4 or 2x2 map in registers, 2-bit codes",
                      pack=partial(packing.ternary_map, v), **_map(v))),
        _row("conv2d.ternary.depthwise", "conv2d_dense_depthwise", "decoded: few weights, so their bytes do not matter",
             pack=partial(packing.depthwise, v), **_depthwise(v) | {"nonfinite": "spreads"}),
        _row("conv2d.ternary.planar", "conv2d_ternary_planar", "two lists of taps, no multiplications",
             needs=(planes_fit(v), density_at_most(0.25)), pack=partial(packing_sparse.ternary_planar, v),
             blocks=(v, 2, 4, 8)),
        _row("conv2d.ternary.stem", "conv2d_ternary_blocked", "register tiles from 2-bit codes; few plain channels in",
             pack=partial(packing.ternary_blocked, v, 1), scratch=partial(padded_image, 1), **_stem(v)),
        _row("conv2d.ternary.blocked", "conv2d_ternary_blocked", "register tiles from 2-bit codes",
             pack=partial(packing.ternary_blocked, v, v), scratch=partial(padded_image, v), **_tiles(v)),
        _row("conv2d.ternary.direct", "conv2d_csr_direct", "the plain sparse loop", pack=packing_sparse.csr_direct),
    )  # fmt: skip


def _int8(v: int) -> tuple[Kernel, ...]:
    return (
        _row("conv2d.int8.stem", "conv2d_int8_blocked", "tiles of four-byte dot products; few plain channels in",
             pack=partial(packing.int8_blocked, v, 4), scratch=partial(framed_image, 4), **_stem(v)),
        _row("conv2d.int8.winograd", "conv2d_int8_winograd", "F(4,3) in whole numbers: 36 products for 144",
             needs=(one_group, window_3x3, channels_at_least(2 * v + 1), tiles_at_least(16, 4), rows_beyond(4)),
             layouts=(f"nchw{v}c",) * 2, pack=partial(packing.int8_winograd, v), scratch=partial(points, v),
             blocks=(v, 2 * v, 4, 8)),
        *wide(v, _row("conv2d.int8.map", "conv2d_int8_map", "a small map or two rows of it, nothing on padding",
                      pack=partial(packing.int8_map, v), scratch=partial(offset_image, v),
                      **_map(v) | {"needs": (one_group, small_map_or_8x8)})),
        _row("conv2d.int8.blocked", "conv2d_int8_blocked", "tiles of four-byte dot products",
             pack=partial(packing.int8_blocked, v, v), scratch=partial(framed_image, v), **_tiles(v)),
        _row("conv2d.int8.depthwise", "conv2d_int8_depthwise", "vectors of channels, 4 pixels in registers",
             pack=partial(packing.int8_depthwise, v), scratch=partial(framed_strips, v), **_depthwise(v)),
        _row("conv2d.int8.direct", "conv2d_int8_direct", "the plain loop", pack=packing.int8_direct),
    )  # fmt: skip


def _ternary8(v: int) -> tuple[Kernel, ...]:
    """Where few pixels share a weight its bytes are what takes time; elsewhere the rows of int8 run."""
    return wide(v, _row("conv2d.ternary8.map2", "conv2d_ternary8_map", "a whole 4x4 or 2x2 map, two bits each",
                        pack=partial(packing.ternary8_map, v), scratch=partial(offset_image, v),
                        **_map(v)))  # fmt: skip


def _linear(v: int) -> tuple[Kernel, ...]:
    return (
        _row("linear.dense.blocked", "linear_dense_blocked", "a vector of features at a time, weights read once",
             pack=partial(packing.linear_blocked, v), blocks=(v, 4)),
        _row("linear.csr.batch", "linear_csr_batch", "a stored weight at a time, for vectors of images",
             needs=(vectors_at_least(v, 0.25),), pack=packing_sparse.csr_linear, scratch=partial(lines_of_vectors, v),
             blocks=(v, 4)),
        _row("linear.csr.direct", "linear_csr_direct", "a stored weight at a time",
             pack=packing_sparse.csr_linear, blocks=(4,)),
        _row("linear.ternary.blocked", "linear_ternary_blocked", "a vector of features from each word of codes",
             pack=partial(packing.ternary_linear, v), blocks=(v, 4), nonfinite="spreads"),
        _row("linear.int8.blocked", "linear_int8_blocked", "four-byte dot products, a vector of features at a time",
             pack=partial(packing.int8_linear, v), scratch=offset_vectors, blocks=(v, 4, 16)),
    )  # fmt: skip


def _both(v: int, name: str, run: str, summary: str, pack: Callable[..., packing.Packed] | None = None,
          needs: tuple[Need, ...] = (), **fields: Any) -> tuple[Kernel, Kernel]:  # fmt: skip
    """The same function for blocked channels and for nchw."""
    lanes = f"nchw{v}c"
    packs = [{} if pack is None else {"pack": partial(pack, block)} for block in (v, 1)]
    return (
        _row(f"{name}.blocked", run, f"{summary}; blocked channels", needs=(image, *needs), layouts=(lanes, lanes),
             blocks=(v,), **packs[0], **fields),
        _row(f"{name}.planar", run, f"{summary}; plane by plane", **packs[1], **fields),
    )  # fmt: skip


def _all(v: int, name: str, run: str, summary: str, pack: Callable[..., packing.Packed] | None = None,
         **fields: Any) -> tuple[Kernel, ...]:  # fmt: skip
    """And for images side by side: to a function that knows planes alone, RS_V images are one of as many channels."""
    lanes, packs = f"nchw{v}n", {} if pack is None else {"pack": partial(pack, 1)}
    return (
        *_both(v, name, run, summary, pack, **fields),
        _row(f"{name}.images", run, f"{summary}; images side by side", needs=(image,), layouts=(lanes, lanes),
             blocks=(v,), **packs, **fields),
    )  # fmt: skip


def _pointwise(v: int) -> tuple[Kernel, ...]:
    return (
        *_all(v, "maxpool.float32", "maxpool_float32", "largest of each window"),
        *_both(v, "maxpool.int8", "maxpool_int8", "largest of each window"),
        *_all(v, "avgpool.float32", "avgpool_float32", "mean of each window", packing.avgpool, exact=False),
        *_all(v, "globalavgpool.float32", "globalavgpool_float32", "mean of each plane", exact=False),
        *_all(v, "relu.float32", "relu_float32", "one pass", in_place=True),
        *_all(v, "add.float32", "add_float32", "one pass", in_place=True),
        *_both(v, "quantize.float32", "quantize_float32", "one pass, NaN gives -128", packing.quantize),
        *_both(v, "batchnorm.dense", "batchnorm_dense", "one pass", packing.batchnorm, exact=False, in_place=True),
        _row("softmax.float32.planar", "softmax_float32", "shifted by the largest", exact=False, in_place=True),
    )


def _movement(v: int) -> tuple[Kernel, ...]:
    rows: list[Kernel] = []
    for dtype, itemsize in (("float32", 4), ("int8", 1)):
        pack, across = partial(packing.concat, itemsize), (between("nchw", f"nchw{v}c"),)
        rows += _both(v, f"concat.{dtype}", "concat", "one copy an input", pack, needs=(whole_blocks(v),))
        rows.append(_row(f"flatten.{dtype}.planar", "flatten", "one copy"))
        rows.append(_row(f"reorder.{dtype}.block", "reorder", "a row of a block at a time", needs=across, blocks=(v,)))
    others = ("nchw", f"nchw{v}c")
    rows.append(_row("reorder.float32.gather", "reorder_gather", "images side by side, V x V numbers at a time",
                     needs=(from_to(others, (f"nchw{v}n",)),), blocks=(v,)))  # fmt: skip
    rows.append(_row("reorder.float32.scatter", "reorder_scatter", "images apart again, V x V numbers at a time",
                     needs=(from_to((f"nchw{v}n",), others),), blocks=(v,)))  # fmt: skip
    return tuple(rows)
