"""Block-sparse rows: CSR of blocks. A block is stored whole or not at all, so one index serves r * c weights.

Blocks of 16 rows by 1 column are the default: one input times a vector of 16 filters, no gathering.

Layout      indptr   |0 |2 |2 |5 ..|        int32 (ceil(rows / r) + 1,)   a row of blocks owns indptr[i] .. indptr[i+1]
            indices  |b0 b1|b0 b3 b7|..     int32 (blocks,)               columns of blocks, rising within a row
            values   |B0 B1|B2 B3 B4|..     float32 (blocks, r, c)        each block row by row
            bytes    4 * (ceil(rows / r) + 1) + (4 + 4 * r * c) * blocks
Where r or c does not divide the matrix, the last blocks reach beyond it; what they hold there is 0 and never used.
A stored zero multiplies; a block that is not stored contributes nothing, whatever its input.
Next: half.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refstack.errors import FormatError
from refstack.formats.base import Array, Weight, as_matrix, require_dtype, require_finite
from refstack.formats.csr import Csr, check_pattern

BLOCK = (16, 1)
MAX_SIDE = 256
"""Longest side of a block: bounds what a small file can make of a large block."""


@dataclass(frozen=True, eq=False)
class Bsr(Weight):
    """Blocks that hold a non-zero.   nbytes = 4*(ceil(rows/r)+1) + (4+4*r*c)*blocks"""

    format: ClassVar[str] = "bsr"
    sparse: ClassVar[bool] = True
    indptr: Array
    indices: Array
    values: Array
    height: int  # rows of the matrix
    cols: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.cols

    @property
    def block(self) -> tuple[int, int]:
        """(r, c)"""
        return self.values.shape[1], self.values.shape[2]

    @property
    def nnz(self) -> int:
        return int(np.count_nonzero(self.values))

    @classmethod
    def encode(cls, matrix: Array, block: tuple[int, int] = BLOCK) -> Bsr:
        matrix = as_matrix(matrix, "bsr")
        blocks = split(matrix, block)
        pattern = Csr.encode((blocks != 0).any(axis=(2, 3)))
        rows = np.repeat(np.arange(len(blocks)), np.diff(pattern.indptr))
        return cls(pattern.indptr, pattern.indices, blocks[rows, pattern.indices], *matrix.shape)

    def decode(self) -> Array:
        (r, c), across = self.block, -(-self.cols // self.block[1])
        blocks = np.zeros((self.indptr.size - 1, across, r, c), np.float32)
        blocks[self._block_rows(), self.indices] = self.values
        return blocks.swapaxes(1, 2).reshape(-1, across * c)[: self.height, : self.cols].copy()

    def matmul(self, columns: Array) -> Array:
        (r, c), m = self.block, columns.shape[1]
        x = np.zeros((-(-self.cols // c), c, m), columns.dtype)
        x.reshape(-1, m)[: self.cols] = columns
        y = np.zeros((self.indptr.size - 1, r, m), columns.dtype)
        for i, (start, stop) in enumerate(zip(self.indptr[:-1], self.indptr[1:], strict=True)):
            for b in range(start, stop):
                y[i] += self.values[b].astype(columns.dtype) @ x[self.indices[b]]
        return y.reshape(-1, m)[: self.height]

    def rows(self, start: int, stop: int) -> Bsr:
        """Cut between blocks, or through them: then what is left are blocks of one row, stored zeros among them."""
        r, first = self.block[0], start // self.block[0]
        if start % r or (stop % r and stop < self.height):
            return self._flat().rows(start, stop)
        low, high = self.indptr[first], self.indptr[-(-stop // r)]
        indptr = self.indptr[first : -(-stop // r) + 1] - low
        return Bsr(indptr, self.indices[low:high], self.values[low:high], stop - start, self.cols)

    def csr(self) -> Csr:
        """Every stored entry on its own, stored zeros included."""
        flat, c = self._flat(), self.block[1]
        columns = flat.indices[:, None] * c + np.arange(c, dtype=np.int32)
        inside = columns < self.cols
        before = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int32)
        return Csr(before[flat.indptr], columns[inside], flat.values[:, 0][inside], self.cols)

    def _flat(self) -> Bsr:
        """The same in blocks of 1 x c."""
        rows, within = np.divmod(np.arange(self.height), self.block[0])
        stored = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(stored)]).astype(np.int32)
        source = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], stored)
        values = self.values[source, np.repeat(within, stored)][:, None]
        return Bsr(indptr, self.indices[source], values, self.height, self.cols)

    def _block_rows(self) -> Array:
        return np.repeat(np.arange(self.indptr.size - 1), np.diff(self.indptr))

    def check(self) -> None:
        require_dtype(self.values, np.float32, 3, "bsr.values")
        check_block(self.block)
        require_dtype(self.indptr, np.int32, 1, "bsr.indptr")
        r, c = self.block
        if min(self.height, self.cols) < 0 or self.indptr.size - 1 != -(-self.height // r):
            got = f"{self.indptr.size - 1} rows of blocks for {self.height} rows and {self.cols} columns"
            raise FormatError(f"bsr.indptr: {got}, wanted one for every {r} rows")
        check_pattern("bsr", self.indptr, self.indices, len(self.values), -(-self.cols // c))
        require_finite(self.values, "bsr.values")
        below = self.values[self._block_rows() == self.indptr.size - 2, self.height - r * (self.indptr.size - 2) :]
        right = self.values[self.indices == (self.cols - 1) // c, :, (self.cols - 1) % c + 1 :]
        if below.any() or right.any():
            raise FormatError(f"bsr.values: a block holds numbers beyond the matrix {self.shape}, wanted zeros there")


def check_block(block: tuple[int, int]) -> None:
    """FormatError unless both sides are 1 to MAX_SIDE."""
    if not all(1 <= side <= MAX_SIDE for side in block):
        raise FormatError(f"bsr: blocks of {block[0]} x {block[1]}, wanted sides of 1 to {MAX_SIDE}")


def split(matrix: Array, block: tuple[int, int]) -> Array:
    """(rows, cols) -> (ceil(rows/r), ceil(cols/c), r, c), zeros beyond the matrix."""
    check_block(block)
    (rows, cols), (r, c) = matrix.shape, block
    padded = np.pad(matrix, ((0, -rows % r), (0, -cols % c)))
    return padded.reshape(len(padded) // r, r, padded.shape[1] // c, c).swapaxes(1, 2)
