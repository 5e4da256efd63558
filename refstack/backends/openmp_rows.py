"""The OpenMP rows: which C kernel computes what, what it needs (needs.py) and how much scratch memory (scratch.py).

V is the number of float32 in a vector of this build (16 with AVX-512), and nchw<V>c the blocked layout that most
kernels prefer: V channels of one pixel side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from refstack.backends import packing, packing_images, packing_sparse
from refstack.backends.needs import (
    between,
    channels_at_least,
    channels_below,
    columns_at_least,
    decoded,
    density_at_most,
    depthwise,
    from_to,
    image,
    images_at_least,
    one_group,
    patches_of,
    pixels_at_most,
    planes_fit,
    rows_beyond,
    small_map,
    small_map_or_8x8,
    stride_at_most,
    tiles_at_least,
    vectors_at_least,
    whole_blocks,
    whole_patches,
    whole_vectors,
    window_1x1_or_3x3,
    window_3x3,
)
from refstack.backends.scratch import (
    framed_image,
    framed_strips,
    lines_of_vectors,
    offset_image,
    offset_vectors,
    padded_image,
    points,
    transformed,
)
from refstack.kernels import Kernel, Need
from refstack.winograd import F2, F4


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
        _row("conv2d.dense.stem_patches", "conv2d_csr_batch", "few channels, patches side by side", joins=True,
             needs=(one_group, patches_of(v), channels_below(v)), layouts=(f"nchw{v}p",) * 2,
             pack=partial(packing_images.csr_batch, v, patches=True), blocks=(v, 4, 8)),
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
        *(decoded(_winograd(v, m), least) for m, least in ((4, 0.25), (2, 0.33))),
        _row("conv2d.csr.patches", "conv2d_csr_batch", "vectors of one pixel of many patches of an image",
             needs=(one_group, patches_of(v)), layouts=(f"nchw{v}p",) * 2,
             pack=partial(packing_images.csr_batch, v, patches=True), blocks=(v, 4, 8)),
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


def _patches(v: int, name: str, run: str, summary: str, **fields: Any) -> Kernel:
    """And for patches side by side, which are as many channels of a smaller image."""
    return _row(f"{name}.patches", run, f"{summary}; patches side by side", needs=(whole_patches(v),),
                layouts=(f"nchw{v}p",) * 2, blocks=(v,), **fields)  # fmt: skip


def _pointwise(v: int) -> tuple[Kernel, ...]:
    return (
        *_all(v, "maxpool.float32", "maxpool_float32", "largest of each window"),
        _patches(v, "maxpool.float32", "maxpool_float32", "largest of each window"),
        *_both(v, "maxpool.int8", "maxpool_int8", "largest of each window"),
        *_all(v, "avgpool.float32", "avgpool_float32", "mean of each window", packing.avgpool, exact=False),
        *_all(v, "globalavgpool.float32", "globalavgpool_float32", "mean of each plane", exact=False),
        *_all(v, "relu.float32", "relu_float32", "one pass", in_place=True),
        _patches(v, "relu.float32", "relu_float32", "one pass", in_place=True),
        *_all(v, "add.float32", "add_float32", "one pass", in_place=True),
        _patches(v, "add.float32", "add_float32", "one pass", in_place=True),
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
    rows.append(_row("reorder.float32.cut", "reorder_cut", "patches side by side, V x V numbers at a time",
                     needs=(from_to(others, (f"nchw{v}p",)), whole_patches(v)), blocks=(v,)))  # fmt: skip
    rows.append(_row("reorder.float32.join", "reorder_join", "patches apart again, V x V numbers at a time",
                     needs=(from_to((f"nchw{v}p",), others), whole_patches(v)), blocks=(v,)))  # fmt: skip
    return tuple(rows)
