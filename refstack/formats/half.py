"""Half precision: every entry stored in 16 bits, widened to float32 (without rounding) before it multiplies.

    w' = float16(w), round half to even:  |w' - w| <= 2**-11 |w| for 2**-14 <= |w| <= 65504, 2**-25 at most below

Layout      values   float16 (rows, cols)      sign 1 bit | exponent 5 | fraction 10          bytes  2 * rows * cols
Next: ternary.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refstack.errors import FormatError
from refstack.formats.base import Array, Weight, as_matrix, require_dtype, require_finite


@dataclass(frozen=True, eq=False)
class Half(Weight):
    """W rounded to float16; arithmetic stays float32.   nbytes = 2 * rows * cols"""

    format: ClassVar[str] = "half"
    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @classmethod
    def encode(cls, matrix: Array) -> Half:
        """Rounds. FormatError for what float16 cannot hold, from 65520 on."""
        return cls(to_float16(as_matrix(matrix, "half"), "half weight"))

    def decode(self) -> Array:
        return self.values.astype(np.float32)

    def matmul(self, columns: Array) -> Array:
        return self.values.astype(columns.dtype) @ columns

    def rows(self, start: int, stop: int) -> Half:
        return Half(self.values[start:stop])

    def check(self) -> None:
        require_dtype(self.values, np.float16, 2, "half.values")
        require_finite(self.values, "half.values")


def to_float16(array: Array, what: str) -> Array:
    """Rounded to float16, or FormatError naming the first value that overflows."""
    with np.errstate(over="ignore"):  # overflow is what is looked for
        half = array.astype(np.float16)
    over = ~np.isfinite(half)
    if over.any():
        at = tuple(int(i) for i in np.argwhere(over)[0])
        raise FormatError(f"{what}: {int(over.sum())} values overflow float16, first {array[at]} at {at}; use float32")
    return half
