"""Ways to draw each op's layers: in general, and where kernels take other paths.

Next: fills.py, then harness.py
"""

from __future__ import annotations

from collections.abc import Callable

from refstack import ops
from refstack.kernels import Reorder, patch_grid
from refstack.ops import Op, Shape
from refstack.verification.cases import Blocks, Choose, activation, pair, plane, sizes, square_plane

Shapes = tuple[Shape, ...]
Family = Callable[[Choose, Blocks], tuple[Op, Shapes]]

DEEP = (31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1024, 1025)
"""Numbers of terms at which blocked sums take another path."""

MOST_MACS = 2**20
"""Multiply-adds of the largest drawn layer, about: keeps a problem in the milliseconds."""


def lanes(blocks: Blocks) -> int:
    """Numbers in a vector: 16 at most, whatever block a library's row names first."""
    return min(blocks[0], 16)


def conv_general(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Any window, stride, padding, dilation and groups."""
    kernel, stride, dilation = pair(choose, 1, 4), pair(choose, 1, 3), pair(choose, 1, 3)
    n, g = choose.integer(1, 3), choose.among((1, 1, 2, 3))
    c, k, p, q = sizes(choose, blocks, 4, MOST_MACS // (kernel[0] * kernel[1] * n * g))
    h, w, padding = plane(choose, p, q, kernel, stride, dilation)
    return ops.Conv2d(kernel, stride, padding, dilation, k * g, g, activation(choose)), ((n, c * g, h, w),)


def conv_square(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """What networks are made of: 3x3, 5x5 or 7x7, one group."""
    r, st, n = choose.among((3, 3, 5, 7)), choose.integer(1, 2), choose.integer(1, 2)
    c, k, p, q = sizes(choose, blocks, 4, MOST_MACS // (r * r * n))
    h, w, padding = square_plane(choose, p, q, r, st)
    return ops.Conv2d((r, r), (st, st), padding, (1, 1), k, 1, activation(choose)), ((n, c, h, w),)


def conv_pointwise(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """1x1."""
    st, n = choose.among(((1, 1), (1, 1), (2, 2), (1, 2), (2, 1))), choose.integer(1, 2)
    c, k, p, q = sizes(choose, blocks, 4, MOST_MACS // n)
    h, w = p * st[0] - choose.integer(0, st[0] - 1), q * st[1] - choose.integer(0, st[1] - 1)
    return ops.Conv2d((1, 1), st, (0, 0, 0, 0), (1, 1), k, 1, activation(choose)), ((n, c, h, w),)


def conv_single(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """One group, height and width each with a window, stride, dilation and padding of its own."""
    kernel, stride, dilation = pair(choose, 1, 4), pair(choose, 1, 2), pair(choose, 1, 2)
    n = choose.integer(1, 2)
    c, k, p, q = sizes(choose, blocks, 4, MOST_MACS // (kernel[0] * kernel[1] * n))
    h, w, padding = plane(choose, p, q, kernel, stride, dilation)
    return ops.Conv2d(kernel, stride, padding, dilation, k, 1, activation(choose)), ((n, c, h, w),)


def conv_wide(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Few pixels in a row and many filters, or few channels: where register tiles span several blocks of filters."""
    r, st, lane = choose.among((3, 1, 5)), choose.integer(1, 2), max(blocks)
    k = choose.integer(3, 6) * lane + choose.integer(-1, 1)
    c = choose.among((1, 3, 4, lane, lane + 1))
    p, q = choose.integer(1, 3), choose.among((1, 2, 3, 5, 6, 13))
    c = min(c, max(1, 4 * MOST_MACS // (k * r * r * p * q)))
    h, w, padding = square_plane(choose, p, q, r, st)
    return ops.Conv2d((r, r), (st, st), padding, (1, 1), k, 1, activation(choose)), ((1, c, h, w),)


def conv_map(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """The last layers of a network: maps of 8x8, 4x4 and 2x2, filters for up to six blocks."""
    st, size, n = choose.integer(1, 2), choose.among((2, 2, 4, 8)), choose.integer(1, 2)
    k = choose.integer(1, 6) * blocks[0] - choose.integer(0, 1)
    (c,) = sizes(choose, blocks, 1, MOST_MACS // (9 * size * size * n * k))
    if size == 2 and choose.integer(0, 3) == 3:  # more channels than any cache or buffer of planes holds
        n, c, k = 1, 1400, choose.integer(1, 9)
    return ops.Conv2d((3, 3), (st, st), (1,) * 4, (1, 1), k, 1, activation(choose)), ((n, c, size * st, size * st),)


def conv_tiles(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """3x3 at stride 1 with enough channels and pixels for algorithms that work on tiles of outputs."""
    lane, n = lanes(blocks), choose.integer(1, 3)
    c, k = (choose.integer(1, 3) * lane + choose.integer(0, 2) for _ in range(2))
    p, q = choose.integer(3, 14), choose.integer(3, 14)
    if choose.integer(0, 3) == 3:  # many channels and tiles for narrow vectors, too
        c, k = choose.integer(32, 50), choose.integer(32, 50)
        p, q = choose.integer(9, 14), choose.integer(9, 14)
    h, w, padding = square_plane(choose, p, q, 3, 1)
    return ops.Conv2d((3, 3), (1, 1), padding, (1, 1), k, 1, activation(choose)), ((n, c, h, w),)


def conv_images(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Many images of small maps, for kernels whose vectors are images."""
    lane, r, st = lanes(blocks), choose.among((3, 3, 3, 1)), choose.among((1, 1, 2))
    n = choose.among((lane, lane - 1, 2 * lane, 4 * lane + 1))
    p, q = (2, 2) if choose.integer(0, 1) else (choose.integer(1, 5), choose.integer(1, 5))
    c, k = (lane + extra for extra in sizes(choose, blocks, 2, max(1, MOST_MACS // (n * p * q * r * r))))
    h, w, padding = square_plane(choose, p, q, r, st)
    return ops.Conv2d((r, r), (st, st), padding, (1, 1), k, 1, activation(choose)), ((n, c, h, w),)


def conv_beside(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Whole vectors of images: of few channels, with a filter for every channel, or long rows of many channels."""
    lane = lanes(blocks)
    n, r, st = lane * choose.integer(1, 2), choose.among((3, 3, 1)), choose.integer(1, 2)
    c, p, q = choose.integer(1, max(1, lane - 1)), choose.integer(1, 6), choose.integer(1, 11)
    k, groups = (c, c) if choose.integer(0, 1) else (choose.integer(1, 2 * lane), 1)
    if choose.integer(0, 2) == 0:
        n, c, p, q, k, groups = lane, 2 * lane + choose.integer(1, 9), choose.integer(1, 3), 8 + q, 3, 1
    h, w, padding = square_plane(choose, p, q, r, st)
    return ops.Conv2d((r, r), (st, st), padding, (1, 1), k, groups, activation(choose)), ((n, c, h, w),)


def conv_patches(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Images that fall into a vector of patches, each of some whole pixels, for kernels whose vectors are patches."""
    rows, cols = patch_grid(lanes(blocks))
    r, st, n = choose.among((3, 3, 3, 1)), choose.integer(1, 2), choose.integer(1, 2)
    p, q = choose.integer(1, 4), choose.integer(1, 4)
    if choose.integer(0, 3) == 3:  # a tile and more
        p, q = choose.integer(5, 9), choose.integer(7, 9)
    if choose.integer(0, 1) == 1:
        q = p
    h, w = p * rows * st, q * cols * st
    c, k = sizes(choose, blocks, 2, max(1, MOST_MACS // (n * h * w * r * r)))
    return ops.Conv2d((r, r), (st, st), (r // 2,) * 4, (1, 1), k, 1, activation(choose)), ((n, c, h, w),)


def conv_padding(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """No padding, or on one side only, or on any, also beyond the window; rows that are whole vectors."""
    r, s = choose.among(((1, 1), (1, 1), (3, 3), (2, 2), (2, 1), (1, 3), (3, 1)))
    kind = choose.integer(0, 2) if r * s > 1 else 1
    sides = [0, 0, 0, 0]
    for i in range(4) if kind == 2 else [choose.integer(0, 3)][:kind]:
        window = (r, s)[i % 2]
        sides[i] = choose.among((window, (window - 1) // 2, window - 1)) or 1
    top, left, bottom, right = sides
    h, w = choose.integer(1, 5) + r - 1, max(blocks) * choose.among((1, 1, 2)) if choose.integer(0, 4) else 7
    c, k = sizes(choose, blocks, 2, 2**10)
    return ops.Conv2d((r, s), (1, 1), (top, left, bottom, right), (1, 1), k, 1, activation(choose)), ((1, c, h, w),)


def conv_depthwise_general(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """A filter for every channel, any window, stride, dilation and padding."""
    kernel, stride, dilation = pair(choose, 1, 5), pair(choose, 1, 3), pair(choose, 1, 2)
    n = choose.integer(1, 2)
    c, p, q = sizes(choose, blocks, 3, MOST_MACS // (kernel[0] * kernel[1] * n))
    h, w, padding = plane(choose, p, q, kernel, stride, dilation)
    return ops.Conv2d(kernel, stride, padding, dilation, c, c, activation(choose)), ((n, c, h, w),)


def conv_depthwise(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """A filter for every channel, 3x3 or 5x5."""
    r, st, n = choose.among((3, 3, 5)), choose.integer(1, 2), choose.integer(1, 2)
    c, p, q = sizes(choose, blocks, 3, MOST_MACS // (r * r * n))
    h, w, padding = square_plane(choose, p, q, r, st)
    return ops.Conv2d((r, r), (st, st), padding, (1, 1), c, c, activation(choose)), ((n, c, h, w),)


def conv_deepest(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Sums of more than 2**24 / (254 * 127) terms, where float32 no longer holds what int8 products add up to."""
    c, r = choose.among(((1024, 1), (1025, 1), (2048, 1), (128, 3), (257, 3)))
    k, p, q = sizes(choose, blocks, 3, 32)
    return ops.Conv2d((r, r), (1, 1), (r // 2,) * 4, (1, 1), k, 1, activation(choose)), ((1, c, p, q),)


def conv_deep(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Long sums: many channels, 1x1 or 3x3, small planes."""
    c, r = choose.among(DEEP), choose.among((1, 1, 3))
    k, p, q = sizes(choose, blocks, 3, max(1, 2**18 // (c * r * r)))
    return ops.Conv2d((r, r), (1, 1), (r // 2,) * 4, (1, 1), k, 1, activation(choose)), ((1, c, p, q),)


def conv_named(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Layers of the studied networks, scaled down."""
    c, k, h, r, st, g = choose.among((
        (3, 16, 16, 3, 1, 1), (3, 8, 14, 7, 2, 1), (16, 32, 8, 3, 2, 1), (16, 16, 8, 3, 1, 1), (16, 32, 8, 1, 2, 1),
        (32, 32, 8, 3, 1, 32), (32, 32, 9, 3, 2, 32), (32, 64, 4, 1, 1, 1), (64, 64, 2, 3, 1, 1), (16, 8, 7, 5, 1, 1),
        (512, 20, 2, 3, 1, 1), (1400, 8, 2, 3, 1, 1),
    ))  # fmt: skip
    return ops.Conv2d((r, r), (st, st), (r // 2,) * 4, (1, 1), k, g, activation(choose)), ((1, c, h, h),)


def linear_general(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Small matrices around the blocks."""
    n, c, k = sizes(choose, blocks, 3, MOST_MACS)
    return ops.Linear(k, activation(choose)), ((n, c),)


def linear_deep(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Long sums, the classifier's 512 -> 10 among them."""
    n, k = sizes(choose, (*blocks, 10), 2, 256)
    return ops.Linear(k, activation(choose)), ((n, choose.among(DEEP)),)


def linear_deepest(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Sums of more than 2**24 / (254 * 127) terms."""
    n, k = sizes(choose, (*blocks, 10), 2, 64)
    return ops.Linear(k, activation(choose)), ((n, choose.among((1024, 1025, 2048))),)


def linear_many(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Long sums and at least 256 outputs, enough for a root mean square."""
    n, k = choose.integer(16, 19), choose.integer(16, 35)
    return ops.Linear(k, activation(choose)), ((n, choose.among(DEEP)),)


def image(choose: Choose, blocks: Blocks) -> Shape:
    """(n, c, h, w), now and then of whole patches."""
    n, c, h, w = choose.integer(1, 3), *sizes(choose, blocks, 3, 2**15)
    if choose.integer(0, 3) == 3:
        c, (h, w) = min(c, 33), (choose.integer(1, 5) * size for size in patch_grid(lanes(blocks)))
    return n, c, h, w


def any_shape(choose: Choose, blocks: Blocks) -> Shape:
    """An image, or vectors (n, c)."""
    return image(choose, blocks) if choose.integer(0, 3) else tuple(sizes(choose, blocks, 2, 2**12))


def pooling(kind: type[ops.MaxPool2d] | type[ops.AvgPool2d]) -> Family:
    def draw(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
        """Any window that sees at least one pixel everywhere."""
        kernel, stride, dilation = pair(choose, 1, 4), pair(choose, 1, 3), pair(choose, 1, 2)
        n, (c, p, q) = choose.integer(1, 2), sizes(choose, blocks, 3, 2**12)
        h, w, padding = plane(choose, p, q, kernel, stride, dilation, pooling=True)
        if kind is ops.AvgPool2d:
            counted = choose.integer(0, 1) == 1
            return ops.AvgPool2d(kernel, stride, padding, dilation, counted), ((n, c, h, w),)
        return kind(kernel, stride, padding, dilation), ((n, c, h, w),)

    return draw


def pooling_beside(kind: type[ops.MaxPool2d] | type[ops.AvgPool2d]) -> Family:
    def draw(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
        """Windows side by side, a whole number of them in each of a vector of patches."""
        kernel, (rows, cols) = pair(choose, 1, 3), patch_grid(lanes(blocks))
        c, p, q = sizes(choose, blocks, 3, 2**6)
        shape = choose.integer(1, 2), c, p * rows * kernel[0], q * cols * kernel[1]
        return kind(kernel, kernel), (shape,)

    return draw


def pooling_halves(kind: type[ops.MaxPool2d] | type[ops.AvgPool2d]) -> Family:
    def draw(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
        """2x2 or 3x3 at stride 2, what networks use; or that but for one stride, one dilation or one side's padding."""
        r, pd = choose.among(((2, 0), (3, 1), (3, 0)))
        stride, dilation, padding = [2, 2], [1, 1], [pd] * 4
        other = choose.among((None, None, stride, dilation, padding))
        if other is not None:
            other[choose.integer(0, len(other) - 1)] += 1
        c, *places = sizes(choose, blocks, 3, 2**12)
        size = []
        for i in (0, 1):
            covered = (places[i] - 1) * stride[i] + dilation[i] * (r - 1) + 1 + choose.integer(0, 1)
            size.append(max(covered - padding[i] - padding[i + 2], dilation[i], 1 + pd))
        (sh, sw), (dh, dw), (top, left, bottom, right), (h, w) = stride, dilation, padding, size
        return kind((r, r), (sh, sw), (top, left, bottom, right), (dh, dw)), ((1, c, h, w),)

    return draw


def concat(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """One to four inputs that differ in channels."""
    first = any_shape(choose, blocks)
    more = [sizes(choose, blocks, 1, 64)[0] for _ in range(choose.integer(0, 3))]
    return ops.Concat(), (first, *((first[0], c, *first[2:]) for c in more))


def quantize(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Scales that divide integers into halves (x * (1 / 98) misses most of those) and not, and some whose inverse is
    hardly a float; zero points at both ends."""
    scale = choose.among((2.0, 98.0, 0.02, 0.1, 3e-36, 1e35))
    return ops.Quantize(scale, choose.among((0, -128, 127, 3, -77))), (any_shape(choose, blocks),)


def reorder(choose: Choose, blocks: Blocks) -> tuple[Op, Shapes]:
    """Between two layouts, blocked by a vector of the row's."""
    layouts = ["nchw", "nhwc", *(f"nchw{block}{axis}" for block in blocks for axis in "cnp")]
    source = choose.among(layouts)
    target = choose.among([layout for layout in layouts if layout != source])
    n, *rest = image(choose, blocks)
    if choose.integer(0, 1):
        n = choose.among(blocks) + choose.integer(-1, 1)  # whole blocks of images, and one more or less
        rest[0] = min(rest[0], 2 * max(blocks) + 1)
    return Reorder(source, target), ((n, *rest),)


FAMILIES: dict[str, dict[str, Family]] = {
    "conv2d": {
        "general": conv_general, "square": conv_square, "single": conv_single, "pointwise": conv_pointwise,
        "depthwise": conv_depthwise, "depthwise_general": conv_depthwise_general, "deep": conv_deep,
        "deepest": conv_deepest, "wide": conv_wide, "map": conv_map, "tiles": conv_tiles,
        "images": conv_images, "padding": conv_padding, "named": conv_named, "beside": conv_beside,
        "patches": conv_patches,
    },
    "linear": {"general": linear_general, "deep": linear_deep, "deepest": linear_deepest, "many": linear_many},
    "maxpool": {
        "general": pooling(ops.MaxPool2d), "halves": pooling_halves(ops.MaxPool2d),
        "beside": pooling_beside(ops.MaxPool2d),
    },
    "avgpool": {"general": pooling(ops.AvgPool2d), "halves": pooling_halves(ops.AvgPool2d)},
    "batchnorm": {
        "general": lambda choose, blocks: (ops.BatchNorm(choose.among((1e-5, 1e-3))), (image(choose, blocks),))
    },
    "globalavgpool": {"general": lambda choose, blocks: (ops.GlobalAvgPool(), (image(choose, blocks),))},
    "relu": {
        "general": lambda choose, blocks: (ops.ReLU(choose.among(("relu", "relu6"))), (any_shape(choose, blocks),))
    },
    "add": {"general": lambda choose, blocks: (ops.Add(activation(choose)), (any_shape(choose, blocks),) * 2)},
    "flatten": {"general": lambda choose, blocks: (ops.Flatten(), (image(choose, blocks),))},
    "softmax": {"general": lambda choose, blocks: (ops.Softmax(), (tuple(sizes(choose, blocks, 2, 2**12)),))},
    "concat": {"general": concat},
    "quantize": {"general": quantize},
    "reorder": {"general": reorder},
}  # fmt: skip
"""For each op, ways to draw it. A kernel with narrow needs is fed from the families that it accepts."""
