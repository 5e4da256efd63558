"""What a problem is, who chooses, how sizes are drawn. One drawing for `verify` (seeded) and the tests (hypothesis).

Output first: draw p, q, the window, strides, dilation, padding and what is left over, and derive h and w, so that every
draw is valid and nothing is thrown away. Sizes lie next to the block sizes that a kernel declares.
Next: families.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from refstack.kernels import Case, parse_case
from refstack.ops import Activation

T = TypeVar("T")
Blocks = tuple[int, ...]

BLOCKS: Blocks = (4, 8, 16)
"""Sizes to go around for a kernel that declares none: the usual vector widths."""


class Choose(Protocol):
    """Where choices come from: a random generator or hypothesis. Low numbers and early options are the simple ones."""

    def integer(self, low: int, high: int) -> int: ...
    def among(self, options: Sequence[T]) -> T: ...


class Seeded:
    """Choices of a NumPy generator."""

    def __init__(self, *seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def among(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


class First:
    """Makes the first choice itself, number `index` of its options all around; another makes the rest."""

    def __init__(self, index: int, choose: Choose) -> None:
        self.index: int | None = index
        self.choose = choose

    def integer(self, low: int, high: int) -> int:
        index, self.index = self.index, None
        return self.choose.integer(low, high) if index is None else low + index % (high - low + 1)

    def among(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


@dataclass(frozen=True)
class Problem:
    """A case and what its arrays are filled with. The case's density is what is asked for, not yet what is drawn.

    trail       the choices that drew it, each counted from its simplest option; empty if it was written down
    """

    case: Case
    fill: str
    seed: int
    trail: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def word(self) -> str:
        """One line that repeats it, with its seed: conv2d.dense:n1c3h8w8_k4r3s3_st1pd1g1@integer"""
        return f"{self.case.word}@{self.fill}"

    def __str__(self) -> str:
        return f"{self.word} with seed {self.seed}"


def parse_problem(word: str, seed: int) -> Problem:
    """The problem that a word and a seed name; without a fill it is `integer`. UsageError for a word that is none."""
    case, _, fill = word.partition("@")
    return Problem(parse_case(case), fill or "integer", seed)


def sizes(choose: Choose, blocks: Blocks, count: int, most: int) -> list[int]:
    """`count` sizes with a product of at most `most`: small ones, or next to one, two or three times a block size."""
    drawn = [1] * count
    first = choose.integer(0, count - 1)  # whoever is drawn first may be large
    for i in range(count):
        edges = [v for b in blocks for m in (b, 2 * b, 3 * b) for v in (m - 1, m, m + 1) if 0 < v <= most]
        kind = choose.integer(0, 3)
        small = (4, 4, 13, 13)[kind]  # 13: tails of every length that register tiles leave
        size = choose.among(edges) if edges and kind == 3 else choose.integer(1, max(1, min(small, most)))
        drawn[(first + i) % count] = size
        most //= size
    return drawn


def axis(
    choose: Choose, places: int, window: int, stride: int, dilation: int, least: int = 1, beyond: int = 0
) -> tuple[int, int, int]:
    """(size, before, after) of one image axis on which a window has `places` places; size is at least `least`.

    beyond      1: a window may lie wholly in padding
    """
    reach = dilation * (window - 1) + 1
    padded = (places - 1) * stride + reach + choose.integer(0, stride - 1)
    padded = max(padded, least)
    before = choose.integer(0, min(reach - 1 + beyond, padded - least))
    after = choose.integer(0, min(reach - 1 + beyond, padded - least - before))
    return padded - before - after, before, after


def plane(
    choose: Choose, p: int, q: int, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int],
    pooling: bool = False, beyond: int = 0,
) -> tuple[int, int, tuple[int, int, int, int]]:  # fmt: skip
    """(h, w, padding) of an image with p by q windows. For pooling no window may lie in padding alone."""
    least = dilation if pooling else (1, 1)
    h, top, bottom = axis(choose, p, kernel[0], stride[0], dilation[0], least[0], beyond)
    w, left, right = axis(choose, q, kernel[1], stride[1], dilation[1], least[1], beyond)
    return h, w, (top, left, bottom, right)


def square_plane(choose: Choose, p: int, q: int, r: int, st: int) -> tuple[int, int, tuple[int, int, int, int]]:
    """(h, w, padding) for an r by r window: `same` padding, which some kernels ask for, or any."""
    if choose.integer(0, 1):
        return plane(choose, p, q, (r, r), (st, st), (1, 1))
    return p * st - choose.integer(0, st - 1), q * st - choose.integer(0, st - 1), (r // 2,) * 4


def pair(choose: Choose, low: int, high: int) -> tuple[int, int]:
    """Two independent numbers: a kernel that swaps height and width shows."""
    return choose.integer(low, high), choose.integer(low, high)


def activation(choose: Choose) -> Activation | None:
    """Mostly none: an activation hides errors."""
    options: tuple[Activation | None, ...] = (None, None, None, "relu", "relu6")
    return choose.among(options)
