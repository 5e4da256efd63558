"""Dense float32: every entry stored.

Layout      values   |w00 w01 .. w0C|w10 ..|      rows * cols * 4 bytes
Next: csr.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refstack.formats.base import Array, Weight, as_matrix, require_dtype, require_finite


@dataclass(frozen=True, eq=False)
class Dense(Weight):
    """W itself.   nbytes = 4 * rows * cols"""

    format: ClassVar[str] = "dense"
    values: Array  # float32 (rows, cols)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @classmethod
    def encode(cls, matrix: Array) -> Dense:
        return cls(as_matrix(matrix, "dense"))

    def decode(self) -> Array:
        return self.values.copy()

    def matmul(self, columns: Array) -> Array:
        return self.values.astype(columns.dtype, copy=False) @ columns

    def rows(self, start: int, stop: int) -> Dense:
        return Dense(self.values[start:stop])

    def check(self) -> None:
        require_dtype(self.values, np.float32, 2, "dense.values")
        require_finite(self.values, "dense.values")
