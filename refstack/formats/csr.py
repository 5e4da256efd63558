"""Compressed sparse row: only the non-zeros, one matrix a layer.

Layout      indptr   |0 |2 |2 |5 ..|              int32 (rows + 1,)   row k owns entries indptr[k] .. indptr[k+1]
            indices  |c0 c1|c0 c3 c7|..           int32 (nnz,)        their columns, rising within a row
            values   |v0 v1|v2 v3 v4|..           float32 (nnz,)
            bytes    4 * (rows + 1) + 8 * nnz, so smaller than dense below one half density
A stored zero multiplies; a zero that is not stored contributes nothing, whatever its input.
Next: bsr.py
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
    sparse: ClassVar[bool] = True
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
        require_dtype(self.values, np.float32, 1, "csr.values")
        check_pattern("csr", self.indptr, self.indices, self.values.size, self.cols)
        require_finite(self.values, "csr.values")


def check_pattern(format: str, indptr: Array, indices: Array, values: int, cols: int) -> None:
    """FormatError unless every row's columns rise within 0..cols-1 and there is one for each of the `values`."""
    require_dtype(indices, np.int32, 1, f"{format}.indices")
    check_pointers(format, indptr, indices.size)
    if indices.size != values:
        raise FormatError(f"{format}: {indices.size} indices but {values} values")
    if indices.size and (indices.min() < 0 or indices.max() >= cols):
        where = int(np.argmax((indices < 0) | (indices >= cols)))
        raise FormatError(f"{format}.indices: column {indices[where]} at entry {where}, wanted 0 to {cols - 1}")
    rising = np.diff(indices) > 0
    rising[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < indices.size)] - 1] = True
    if not rising.all():
        where = int(np.argmin(rising)) + 1
        raise FormatError(f"{format}.indices: columns must rise within a row, entry {where} does not")


def check_pointers(format: str, indptr: Array, entries: int) -> None:
    """FormatError unless indptr climbs from 0 to the number of entries."""
    require_dtype(indptr, np.int32, 1, f"{format}.indptr")
    if indptr.size < 1 or indptr[0] != 0 or indptr[-1] != entries:
        raise FormatError(f"{format}.indptr: must run from 0 to the {entries} stored entries")
    steps = np.diff(indptr.astype(np.int64))  # int32 steps could wrap around
    if (steps < 0).any():
        raise FormatError(f"{format}.indptr: falls after row {int(np.argmax(steps < 0))}")
