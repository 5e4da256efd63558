"""Packed ternary: 2 bits a weight and two scales a layer.

    w = +positive where code is 1,  0 where code is 0,  -negative where code is 2       (code 3 is illegal)
    W @ x = positive * (sum of x where code is 1) - negative * (sum of x where code is 2):  no products but two

Layout      codes    uint8 (rows, ceil(cols / 4)); column j sits in byte j // 4, bits 2*(j % 4) and 2*(j % 4) + 1
                     bit   7 6 | 5 4 | 3 2 | 1 0
                     col   j+3 | j+2 | j+1 |  j        unused codes at the end of a row are 0
            scales   float32 (2,)  positive, negative
            bytes    rows * ceil(cols / 4) + 8
Source      Zhu, Han, Mao, Dally: Trained Ternary Quantization, ICLR 2017
Next: int8.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refstack.errors import FormatError
from refstack.formats.base import Array, Weight, as_matrix, require_dtype, require_finite

_SHIFTS = np.array([0, 2, 4, 6], np.uint8)
_NONZERO = ((np.arange(256)[:, None] >> _SHIFTS & 3) > 0).sum(axis=1).astype(np.uint8)
"""How many of a byte's four codes are not 0."""


def pack(codes: Array) -> Array:
    """(rows, cols) codes 0..2 -> (rows, ceil(cols/4)) bytes."""
    padded = np.pad(codes.astype(np.uint8), ((0, 0), (0, -codes.shape[1] % 4)))
    quads = padded.reshape(codes.shape[0], padded.shape[1] // 4, 4) << _SHIFTS
    return np.bitwise_or.reduce(quads, axis=2).astype(np.uint8)


def unpack(packed: Array, cols: int) -> Array:
    """(rows, ceil(cols/4)) bytes -> (rows, cols) codes."""
    return ((packed[:, :, None] >> _SHIFTS) & 3).reshape(packed.shape[0], packed.shape[1] * 4)[:, :cols]


@dataclass(frozen=True, eq=False)
class Ternary(Weight):
    """Signs packed in 2 bits, one scale for each sign.   nbytes = rows * ceil(cols/4) + 8"""

    format: ClassVar[str] = "ternary"
    sparse: ClassVar[bool] = True
    roundings: ClassVar[int] = 2  # the scale's product, and the difference of the two sums
    codes: Array
    scales: Array
    cols: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    @classmethod
    def encode(cls, matrix: Array) -> Ternary:
        """Exact for a matrix that is ternary already: at most one positive and one negative value beside 0."""
        matrix = as_matrix(matrix, "ternary")
        above, below = np.unique(matrix[matrix > 0]), np.unique(matrix[matrix < 0])
        if above.size > 1 or below.size > 1:
            raise FormatError(
                f"ternary: {above.size} positive and {below.size} negative values, wanted at most one of each; "
                "compress the graph with technique 'ternary' first"
            )
        scales = np.array([above[0] if above.size else 0, -below[0] if below.size else 0], np.float32)
        return cls(pack(np.where(matrix > 0, 1, np.where(matrix < 0, 2, 0))), scales, matrix.shape[1])

    def signs(self) -> tuple[Array, Array]:
        """Boolean (rows, cols): where the weight is +positive, where it is -negative."""
        codes = unpack(self.codes, self.cols)
        return codes == 1, codes == 2

    @property
    def nnz(self) -> int:
        return int((_NONZERO[self.codes]).sum()) if self.scales.all() else super().nnz

    def decode(self) -> Array:
        plus, minus = self.signs()
        return self.scales[0] * plus - self.scales[1] * minus

    def matmul(self, columns: Array) -> Array:
        (plus, minus), (positive, negative) = self.signs(), self.scales.astype(columns.dtype)
        y = np.empty((self.shape[0], columns.shape[1]), columns.dtype)
        for k in range(self.shape[0]):
            y[k] = positive * columns[plus[k]].sum(axis=0) - negative * columns[minus[k]].sum(axis=0)
        return y

    def rows(self, start: int, stop: int) -> Ternary:
        return Ternary(self.codes[start:stop], self.scales, self.cols)

    def check(self) -> None:
        require_dtype(self.codes, np.uint8, 2, "ternary.codes")
        require_dtype(self.scales, np.float32, 1, "ternary.scales")
        if self.scales.size != 2 or self.codes.shape[1] != -(-self.cols // 4):
            wanted = f"2 scales and {-(-self.cols // 4)} bytes a row"
            got = f"{self.scales.size} scales and {self.codes.shape[1]} bytes a row"
            raise FormatError(f"ternary: {got}, wanted {wanted}")
        codes = unpack(self.codes, 4 * self.codes.shape[1])
        if (codes == 3).any():
            raise FormatError(
                f"ternary.codes: code 3 at {tuple(int(i) for i in np.argwhere(codes == 3)[0])} is illegal"
            )
        if codes[:, self.cols :].any():
            raise FormatError("ternary.codes: the unused codes at the end of a row must be 0")
        require_finite(self.scales, "ternary.scales")
        if (self.scales < 0).any():
            raise FormatError(f"ternary.scales: {self.scales} must not be negative")
