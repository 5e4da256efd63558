"""Scratch sizes: the bytes of working memory that a kernel takes for a case.

v, v_in and lanes are the numbers of channels, or images, that lie side by side.
"""

from __future__ import annotations

from typing import cast

from refstack.backends import packing
from refstack.kernels import Case
from refstack.ops import Conv2d
from refstack.winograd import Winograd


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
    """The tiles of one pass at all points."""
    tiles, images = packing.tile_grid(algorithm.m, case)
    return at_points(v, algorithm, tiles * images, case)


def at_points(v: int, algorithm: Winograd, tiles: int, case: Case) -> int:
    """So many tiles at all points, inputs and products: of each point an odd number of vectors."""
    vectors = sum(-(-c // v) * tiles | 1 for c in (case.inputs[0][1], case.shape[1]))
    return 4 * v * (algorithm.m + 2) ** 2 * vectors


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
