"""Weights as the OpenMP kernels read them. Done once, at planning; each layout is drawn in its kernel's C file.

A pack is a dict in a fixed order: "bias" goes to rs_args.bias, the rest to rs_args.pack[0], pack[1], ...
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
from numpy import ascontiguousarray as contiguous

from refstack.formats import Array, Int8, Ternary, Ternary8
from refstack.formats.ternary import unpack
from refstack.graph import Node
from refstack.kernels import Case
from refstack.ops import AvgPool2d, BatchNorm, Concat, Conv2d, Quantize
from refstack.winograd import F4, Winograd

Packed = dict[str, Array]


def integers(*values: int) -> Array:
    """A few numbers for a kernel of its own."""
    return np.array(values, np.int64)


def bias(node: Node, rows: int, block: int = 1) -> Array:
    """float32 (rows rounded up to block,), zeros where there is none."""
    out = np.zeros(-(-rows // block) * block, np.float32)
    if node.bias is not None:
        out[:rows] = node.bias
    return contiguous(out)


def filters(node: Node, case: Case) -> Array:
    """The decoded weight as (k, c/g, r, s)."""
    op = cast(Conv2d, case.op)
    assert node.weight is not None
    return node.weight.decode().reshape(op.out_channels, -1, *op.kernel)


def matrix(node: Node, case: Case) -> Packed:
    """The decoded weight as it is: w (k, c/g, r, s), or (k, c) of a linear layer."""
    assert node.weight is not None
    return {"bias": bias(node, case.shape[1]), "weights": contiguous(node.weight.decode())}


def half_matrix(node: Node, case: Case) -> Packed:
    """The same in two bytes a weight, as Half stores them."""
    return half(matrix(node, case))


def pad_axis(array: Array, axis: int, multiple: int) -> Array:
    """Zeros behind one axis, up to a multiple."""
    if array.shape[axis] % multiple == 0:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % multiple)
    return np.pad(array, widths)


def plain(node: Node, case: Case) -> Packed:
    """What a kernel from outside gets: the encoding's own arrays, in the order of its fields, and the bias.

    dense: weights (k, c/g * r * s)     csr: indptr, indices, values     ternary: codes, scales
    int8: as int8_direct, for rs_int8.h     batchnorm: mean, a     avgpool, quantize, concat: their numbers
    """
    weight, op = node.weight, case.op
    if isinstance(op, BatchNorm):
        return batchnorm(1, node, case)
    if isinstance(op, AvgPool2d):
        return avgpool(1, node, case)
    if isinstance(op, Quantize):
        return quantize(1, node, case)
    if isinstance(op, Concat):
        return concat(1 if case.format == "int8" else 4, 1, node, case)
    if weight is None:
        return {}
    if isinstance(weight, Int8):
        return int8_direct(node, case)
    arrays = {name: contiguous(array) for name, array in weight.arrays().items()}
    return {"bias": bias(node, weight.shape[0]), **arrays}


def direct(node: Node, case: Case) -> Packed:
    """w (k, c/g, r, s)"""
    w = filters(node, case)
    return {"bias": bias(node, len(w)), "weights": contiguous(w)}


def tiles(w: Array, v: int, v_in: int, most: int) -> Array:
    """(k, c, r, s) -> groups of [c/v_in][r][s][v_in c][KB][v k], one behind the other; KB is `most`, then 2, then 1."""
    w = pad_axis(pad_axis(w, 0, v), 1, v_in)
    k, c, r, s = w.shape
    blocks = w.reshape(k // v, v, c // v_in, v_in, r, s)
    parts, start = [], 0
    while start < len(blocks):
        left = len(blocks) - start
        size = most if left >= most else 2 if left >= 2 else 1
        parts.append(blocks[start : start + size].transpose(2, 4, 5, 3, 0, 1).ravel())
        start += size
    return np.concatenate(parts)


def blocks_at_once(v: int, case: Case) -> int:
    """How many blocks of output channels a register tile spans: 4 where rows are short, 2 where they are long."""
    op, (_, _, p, q) = cast(Conv2d, case.op), case.shape
    flat = op.kernel == (1, 1) and op.stride == (1, 1)
    return 4 if (p * q if flat else q) <= (6 if v == 16 else 3) else 2


def blocked(v: int, v_in: int, node: Node, case: Case) -> Packed:
    """Register tiles of rs_blocked.h."""
    most = blocks_at_once(v, case)
    w = tiles(filters(node, case), v, v_in, most)
    return {"bias": bias(node, case.shape[1], v), "weights": contiguous(w), "tile": integers(most)}


def small_map(v: int, node: Node, case: Case) -> Packed:
    """One block of channels for 16 pixels, four for 4."""
    most = 1 if case.shape[2] == 4 else 4
    w = tiles(filters(node, case), v, v, most)
    return {"bias": bias(node, case.shape[1], v), "weights": contiguous(w), "tile": integers(most)}


PASS = 64
"""Tiles of Winograd's algorithm in one pass, about: enough to use the weights well, few enough to stay in L2."""


def half(packed: Packed) -> Packed:
    """The weights in two bytes, as Half stores them."""
    return {**packed, "weights": packed["weights"].astype(np.float16)}


def half_blocked(v: int, node: Node, case: Case) -> Packed:
    """Register tiles of rs_blocked.h."""
    return half(blocked(v, v, node, case))


def half_map(v: int, node: Node, case: Case) -> Packed:
    """Whole maps of rs_map.h."""
    return half(small_map(v, node, case))


def tile_grid(m: int, case: Case) -> tuple[int, int]:
    """(tiles of an image, images in a pass)"""
    n, _, p, q = case.shape
    tiles = -(-p // m) * -(-q // m)
    return tiles, max(1, min(n, PASS // tiles))


def winograd(v: int, algorithm: Winograd, node: Node, case: Case) -> Packed:
    """[A*A] register tiles of the transformed filters, each a 1x1 convolution's, 2 blocks wide."""
    _, images = tile_grid(algorithm.m, case)
    w, size = filters(node, case), algorithm.m + 2
    u = np.empty((size, size, *w.shape[:2]), np.float32)
    for k in range(0, len(w), 16):  # in float64 all at once would be the largest array of a plan
        u[..., k : k + 16, :] = algorithm.filters(w[k : k + 16]).transpose(2, 3, 0, 1)
    points = np.stack([tiles(u[i, j, ..., None, None], v, v, 2) for i, j in np.ndindex(size, size)])
    return {"bias": bias(node, case.shape[1], v), "weights": points, "sizes": integers(2, images)}


def depthwise(v: int, node: Node, case: Case) -> Packed:
    """(c, 1, r, s) -> [c/v][r][s][v c]"""
    w = pad_axis(filters(node, case)[:, 0], 0, v)
    weights = w.reshape(-1, v, *w.shape[1:]).transpose(0, 2, 3, 1)
    return {"bias": bias(node, case.shape[1], v), "weights": contiguous(weights)}


def words(v: int, codes: Array) -> Array:
    """Two bits for each of v codes that follow each other: one word of 2*v bits (rs_ternary.h)."""
    dtype = {4: np.uint8, 8: np.uint16, 16: np.uint32}[v]
    fours = codes.reshape(-1, 4)
    coded = fours[:, 0] | fours[:, 1] << 2 | fours[:, 2] << 4 | fours[:, 3] << 6
    return coded.view(dtype)


def table(v: int, weight: Ternary) -> Array:
    """float32 (v,): 0, +positive, -negative, 0, and again"""
    return contiguous(np.tile(np.array([0, weight.scales[0], -weight.scales[1], 0], np.float32), v // 4))


def ternary_tiles(v: int, v_in: int, most: int, node: Node, case: Case) -> Packed:
    """As for dense weights, codes instead of numbers."""
    weight, op = cast(Ternary, node.weight), cast(Conv2d, case.op)
    codes = unpack(weight.codes, weight.cols).reshape(op.out_channels, -1, *op.kernel)
    coded = contiguous(words(v, tiles(codes, v, v_in, most)))
    return {"bias": bias(node, case.shape[1], v), "codes": coded, "tile": integers(most), "table": table(v, weight)}


def ternary_blocked(v: int, v_in: int, node: Node, case: Case) -> Packed:
    """Register tiles of rs_blocked.h."""
    return ternary_tiles(v, v_in, blocks_at_once(v, case), node, case)


def ternary_map(v: int, node: Node, case: Case) -> Packed:
    """Whole maps of rs_map.h."""
    return ternary_tiles(v, v, 1 if case.shape[2] == 4 else 4, node, case)


def ternary_linear(v: int, node: Node, case: Case) -> Packed:
    """(k, c) -> [k/v][c] words"""
    weight = cast(Ternary, node.weight)
    codes = pad_axis(unpack(weight.codes, weight.cols), 0, v)
    coded = contiguous(words(v, codes.reshape(-1, v, weight.cols).swapaxes(1, 2)))
    return {"bias": bias(node, case.shape[1], v), "codes": coded, "table": table(v, weight)}


def finish(node: Node, case: Case, block: int, constant: Array) -> Packed:
    """What rs_int8.h makes of a sum: its start, the fixed-point output scale, the float one; zeros in unused lanes."""
    weight = cast(Int8, node.weight)
    requant = np.zeros((5, constant.size), np.int32)
    if weight.output:
        low, high = weight.limits(cast(Conv2d, case.op).activation)
        zero = np.full(constant.size, weight.output.zero_point)
        requant[:] = *weight.multipliers(), zero, np.full_like(zero, low), np.full_like(zero, high)
    arrays = {"constant": constant, "requant": requant, "unit": weight.unit}
    return {key: contiguous(pad_axis(array, array.ndim - 1, block)) for key, array in arrays.items()}


def offset(node: Node) -> Array:
    """int32 (k,): the rounded bias, less what inputs of x + 128 instead of x - zero_point add to each sum."""
    weight = cast(Int8, node.weight)
    added = (weight.input.zero_point + 128) * weight.values.sum(axis=1, dtype=np.int64)
    return (weight.integer_bias(node.bias) - added).astype(np.int32)


def int8_direct(node: Node, case: Case) -> Packed:
    """values (k, c/g, r, s)"""
    weight = cast(Int8, node.weight)
    sizes = integers(1, weight.input.zero_point)
    return {
        "weights": contiguous(weight.values),
        "sizes": sizes,
        **finish(node, case, 1, weight.integer_bias(node.bias)),
    }


def int8_blocked(v: int, lanes: int, node: Node, case: Case) -> Packed:
    """Register tiles as for float32, with four channels side by side in a lane; `lanes` channels in a block of x."""
    weight, op, most = cast(Int8, node.weight), cast(Conv2d, case.op), blocks_at_once(v, case)
    w = weight.values.reshape(op.out_channels, -1, *op.kernel)
    w = pad_axis(pad_axis(w, 0, v), 1, lanes)
    k, c, r, s = w.shape
    fours = w.reshape(k, c // 4, 4, r, s).transpose(0, 2, 1, 3, 4)  # k 4 c/4 r s
    parts = [tiles(fours[:, i], v, lanes // 4, most) for i in range(4)]
    sizes = integers(most, weight.input.zero_point)
    return {"weights": contiguous(np.stack(parts, -1)), "sizes": sizes, **finish(node, case, v, offset(node))}


WHOLE = replace(F4, g=np.rint(F4.g * np.array([[24], [6], [6], [24], [24], [6]])))
"""F(4,3) with filters times whole numbers, so that they stay whole; conv2d_int8_winograd.c divides."""
REACH = 2**25  # the sums, from -REACH on, that it gets back from what is left of them modulo 2^32


def int8_winograd(v: int, node: Node, case: Case) -> Packed:
    """[36] register tiles of the transformed filters, 2 blocks wide, two channels side by side in a lane."""
    weight = cast(Int8, node.weight)
    w, zero = int8_filters(v, weight.values), weight.input.zero_point
    k, c, _, _ = w.shape
    u = WHOLE.filters(w).astype(np.int16).reshape(k, c // 2, 2, 36, 1)
    weights = np.stack([tiles(u[:, :, i], v, c // 2, 2) for i in range(2)], -1)
    largest = max(zero + 128, 127 - zero) * np.abs(w.astype(np.int64)).reshape(k, -1, v * 9).sum(axis=2).max(axis=0)
    blocks = next(n for n in range(c // v, 0, -1) if np.add.reduceat(largest, range(0, c // v, n)).max() < REACH)
    sizes = integers(2, zero, tile_grid(4, case)[1], blocks * v)
    return {"weights": contiguous(weights), "sizes": sizes, **finish(node, case, v, weight.integer_bias(node.bias))}


def int8_filters(v: int, values: Array) -> Array:
    """(k, c*9) -> (k, c, 3, 3), both rounded up to v"""
    return pad_axis(pad_axis(values.reshape(len(values), -1, 3, 3), 0, v), 1, v)


def int8_blocks(v: int, w: Array) -> Array:
    """(k, c, 3, 3) -> [k/v][c/v][4][3][3][v k][4 c]"""
    return w.reshape(len(w) // v, v, -1, 4, 4, 3, 3).transpose(0, 2, 3, 5, 6, 1, 4)


def int8_map(v: int, node: Node, case: Case) -> Packed:
    """values as [k/v][c/v][4][3][3][v k][4 c]"""
    w = int8_filters(v, cast(Int8, node.weight).values)
    return {"weights": contiguous(int8_blocks(v, w)), **finish_map(v, node, case, w)}


def finish_map(v: int, node: Node, case: Case, w: Array) -> Packed:
    """As `finish`, a constant for every pixel: each has its own taps inside the map.   w as int8_filters gives it"""
    weight = cast(Int8, node.weight)
    added = (weight.input.zero_point + 128) * w.sum(axis=1, dtype=np.int64)  # by tap, what x + 128 adds
    size, st = case.shape[2], cast(Conv2d, case.op).stride[0]
    reach = st * np.arange(size)[:, None] + np.arange(3) - 1
    inside = ((reach >= 0) & (reach < size * st)).astype(np.int64)  # (p, r): whether that row lies in the map
    start = np.pad(weight.integer_bias(node.bias).astype(np.int64), (0, -case.shape[1] % v))
    constant = start[:, None] - np.einsum("pr,qs,krs->kpq", inside, inside, added).reshape(len(w), -1)
    by_pixel = constant.astype(np.int32).reshape(-1, v, constant.shape[1]).swapaxes(1, 2)
    return finish(node, case, v, np.zeros(case.shape[1], np.int32)) | {"constant": contiguous(by_pixel)}


def ternary8_map(v: int, node: Node, case: Case) -> Packed:
    """As int8_map, the codes of four groups of four channels in a byte; and what they stand for, [k/v][v k][4]."""
    weight = cast(Ternary8, node.weight)
    fours = int8_blocks(v, int8_filters(v, weight.codes()))  # k/v c/v 4 3 3 v 4
    codes = np.bitwise_or.reduce(fours << np.arange(0, 8, 2, dtype=np.uint8).reshape(4, 1, 1, 1, 1), axis=2)
    levels = pad_axis(np.pad(weight.levels(), ((0, 0), (1, 1))), 0, v)  # code 3 stands for nothing
    finished = finish_map(v, node, case, int8_filters(v, weight.values))
    return {"weights": contiguous(codes), **finished, "table": contiguous(levels)}


def int8_depthwise(v: int, node: Node, case: Case) -> Packed:
    """(c, 1, r, s) -> [c/v][r][s][v c]"""
    weight, op = cast(Int8, node.weight), cast(Conv2d, case.op)
    w = pad_axis(weight.values.reshape(-1, *op.kernel), 0, v)
    sizes = integers(1, weight.input.zero_point)
    weights = contiguous(w.reshape(-1, v, *op.kernel).transpose(0, 2, 3, 1))
    return {"weights": weights, "sizes": sizes, **finish(node, case, v, weight.integer_bias(node.bias))}


def int8_linear(v: int, node: Node, case: Case) -> Packed:
    """(k, c) -> [k/v][c/4][v k][4 c]"""
    weight = cast(Int8, node.weight)
    w = pad_axis(pad_axis(weight.values, 0, v), 1, 4)
    weights = contiguous(w.reshape(-1, v, w.shape[1] // 4, 4).swapaxes(1, 2))
    return {"weights": weights, "sizes": integers(1, weight.input.zero_point), **finish(node, case, v, offset(node))}


def quantize(v: int, node: Node, case: Case) -> Packed:
    """scale, zero point"""
    op = cast(Quantize, case.op)
    return {"scale": np.array([op.scale]), "zero_point": integers(op.zero_point)}


def linear_blocked(v: int, node: Node, case: Case) -> Packed:
    """(k, c) -> [k/v][c][v k]"""
    assert node.weight is not None
    w = pad_axis(node.weight.decode(), 0, v)
    return {"bias": bias(node, case.shape[1], v), "weights": contiguous(w.reshape(-1, v, w.shape[1]).swapaxes(1, 2))}


def batchnorm(v: int, node: Node, case: Case) -> Packed:
    """mean, a = gamma / sqrt(var + eps) in float32 as the reference has it, bias; zeros in the lanes beyond c."""
    assert node.weight is not None and node.mean is not None and node.var is not None
    a = node.weight.decode()[:, 0] / np.sqrt(node.var + np.float32(cast(BatchNorm, case.op).eps))
    padded = {"mean": node.mean, "a": a.astype(np.float32)}
    return {"bias": bias(node, a.size, v), **{key: contiguous(pad_axis(x, 0, v)) for key, x in padded.items()}}


def avgpool(v: int, node: Node, case: Case) -> Packed:
    """{count_include_pad}"""
    return {"include_pad": integers(int(cast(AvgPool2d, case.op).count_include_pad))}


def concat(itemsize: int, v: int, node: Node, case: Case) -> Packed:
    """Bytes of one image of each input."""
    channels = [-(-shape[1] // v) * v for shape in case.inputs]
    pixels = int(np.prod(case.inputs[0][2:]))
    return {"bytes": integers(*(c * pixels * itemsize for c in channels))}
