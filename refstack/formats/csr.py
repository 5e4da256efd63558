"""Compressed sparse row: only the non-zeros, one matrix a layer.

Layout      indptr   |0 |2 |2 |5 ..|              int32 (rows + 1,)   row k owns entries indptr[k] .. indptr[k+1]
            indices  |c0 c1|c0 c3 c7|..           int32 (nnz,)        their columns, rising within a row
            values   |v0 v1|v2 v3 v4|..           float32 (nnz,)
            bytes    4 * (rows + 1) + 8 * nnz, so smaller than dense below one half density
A stored zero multiplies; a zero that is not stored contributes nothing, whatever its input.
Next: ternary.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refstack.errors import FormatError
from refstack.formats.base import Array, Weight, as_matrix, require_dtype, require_finite


@dataclass(frozen=True, eq=False)
class Csr(Weight):
    """The non-zeros of each row beside their columns.   nbytes = 4*(rows+1) + 8*nnz"""

    format: ClassVar[str] = "csr"
    indptr: Array
    indices: Array
    values: Array
    cols: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.indptr.size - 1, self.cols

    @property
    def nnz(self) -> int:
        return int(self.values.size)

    @classmethod
    def encode(cls, matrix: Array) -> Csr:
        matrix = as_matrix(matrix, "csr")
        row, col = np.nonzero(matrix)  # C order: rows rise, columns rise within a row
        indptr = np.searchsorted(row, np.arange(matrix.shape[0] + 1))
        return cls(indptr.astype(np.int32), col.astype(np.int32), matrix[row, col], matrix.shape[1])

    def decode(self) -> Array:
        matrix = np.zeros(self.shape, np.float32)
        matrix[np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), self.indices] = self.values
        return matrix

    def matmul(self, columns: Array) -> Array:
        y = np.zeros((self.shape[0], columns.shape[1]), columns.dtype)
        for k, (start, stop) in enumerate(zip(self.indptr[:-1], self.indptr[1:], strict=True)):
            y[k] = self.values[start:stop].astype(columns.dtype) @ columns[self.indices[start:stop]]
        return y

    def rows(self, start: int, stop: int) -> Csr:
        first, last = self.indptr[start], self.indptr[stop]
        return Csr(self.indptr[start : stop + 1] - first, self.indices[first:last], self.values[first:last], self.cols)

    def check(self) -> None:
        require_dtype(self.indptr, np.int32, 1, "csr.indptr")
        require_dtype(self.indices, np.int32, 1, "csr.indices")
        require_dtype(self.values, np.float32, 1, "csr.values")
        if self.indptr.size < 1 or self.indptr[0] != 0 or self.indptr[-1] != self.indices.size:
            raise FormatError(f"csr.indptr: must run from 0 to the {self.indices.size} stored entries")
        if self.indices.size != self.values.size:
            raise FormatError(f"csr: {self.indices.size} indices but {self.values.size} values")
        steps = np.diff(self.indptr.astype(np.int64))  # int32 steps could wrap around
        if (steps < 0).any():
            raise FormatError(f"csr.indptr: falls after row {int(np.argmax(steps < 0))}")
        if self.indices.size and (self.indices.min() < 0 or self.indices.max() >= self.cols):
            where = int(np.argmax((self.indices < 0) | (self.indices >= self.cols)))
            wanted = f"0 to {self.cols - 1}"
            raise FormatError(f"csr.indices: column {self.indices[where]} at entry {where}, wanted {wanted}")
        rising = np.diff(self.indices) > 0
        rising[self.indptr[1:-1][(self.indptr[1:-1] > 0) & (self.indptr[1:-1] < self.indices.size)] - 1] = True
        if not rising.all():
            where = int(np.argmin(rising)) + 1
            raise FormatError(f"csr.indices: columns must rise within a row, entry {where} does not")
        require_finite(self.values, "csr.values")
