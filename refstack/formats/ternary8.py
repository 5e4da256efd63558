"""ternary8: the int8 weights of a ternary layer, two bits each where they are stored, int8 arithmetic.

    values[k, j] = 0, levels[k, 0] > 0 or levels[k, 1] < 0          all else as in int8.py

A ternary layer whose batch-norm is folded in has one positive and one negative number in a row, and so have its int8
values: nothing is lost by a code of two bits and two levels a row. In memory the values lie as int8's do; files
(packed.py) and kernels hold codes.

Bytes       rows * ceil(cols / 4) of codes, 2 * rows of levels, 4 * rows of scales
Next: packed.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refstack.errors import FormatError
from refstack.formats.base import Array
from refstack.formats.int8 import Int8
from refstack.formats.ternary import pack


def decode(codes: Array, levels: Array) -> Array:
    """The values: codes (rows, cols) and levels (rows, 2) -> int8 (rows, cols)."""
    positive, negative = levels[:, :1], levels[:, 1:]
    return np.where(codes == 1, positive, np.where(codes == 2, negative, np.int8(0)))


@dataclass(frozen=True, eq=False)
class Ternary8(Int8):
    """int8 weights of at most one positive and one negative value a row."""

    format: ClassVar[str] = "ternary8"

    def levels(self) -> Array:
        """The positive and the negative value of every row, 0 where it has none: int8 (rows, 2)."""
        return np.stack([self.values.max(axis=1, initial=0), self.values.min(axis=1, initial=0)], axis=1)

    def codes(self) -> Array:
        """1 where a value is positive, 2 where it is negative: uint8 (rows, cols)."""
        return (self.values > 0).view(np.uint8) | (self.values < 0).view(np.uint8) << np.uint8(1)

    def arrays(self) -> dict[str, Array]:
        """What is stored: packed codes, levels, scale."""
        return {"codes": pack(self.codes()), "levels": self.levels(), "scale": self.scale}

    def check(self) -> None:
        super().check()
        bad = (decode(self.codes(), self.levels()) != self.values).any(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            raise FormatError(
                f"ternary8.values: row {row} has {np.unique(self.values[row]).tolist()!s:.60}, wanted at most one "
                "positive and one negative value beside 0"
            )
