"""Weights as files hold them: sparse ones with values in float16 and columns as steps of one byte, ternary8 as codes.

A step counts the zeros since the last stored entry of the row (or since the row's start) in one byte. 255 stands for
255 zeros and no entry: the count goes on in the next byte. At one weight in ten a step of 255 never happens, and an
entry takes 3 bytes where csr takes 8. Nothing multiplies in this form: it is unpacked when the file is read.

Layout      indptr   int32 (rows + 1,)     as in csr and bsr
            steps    uint8 (m,)            |3|0|255|20|..      columns 3, 4, then 4 + 1 + 255 + 20
            values   float16 (nnz,)        |v0|v1|    v2|..    one for each step below 255; for bsr (blocks, r, c)
            bytes    4 * (rows + 1) + m + 2 * values
Source      Han, Mao, Dally: Deep Compression, ICLR 2016, section 2, whose long steps store a zero instead
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refstack.errors import FormatError
from refstack.formats.base import Array, require_dtype
from refstack.formats.bsr import Bsr
from refstack.formats.csr import Csr, check_pointers
from refstack.formats.half import to_float16
from refstack.formats.int8 import Quant
from refstack.formats.ternary import unpack
from refstack.formats.ternary8 import Ternary8, decode

LONG = 255
"""The step that ends in no entry."""


@dataclass(frozen=True, eq=False)
class PackedCsr:
    """What a file holds of a csr weight; `unpack` checks it."""

    format: ClassVar[str] = "csr16"
    rounds: ClassVar[bool] = True
    indptr: Array
    steps: Array
    values: Array
    cols: int

    @classmethod
    def pack(cls, weight: Csr, name: str) -> PackedCsr:
        """Rounds the values. FormatError for what float16 cannot hold."""
        return cls(weight.indptr, steps(weight.indptr, weight.indices), to_float16(weight.values, name), weight.cols)

    def unpack(self) -> Csr:
        """FormatError unless this stands for a sound weight."""
        require_dtype(self.values, np.float16, 1, f"{self.format}.values")
        indices = columns(self.format, self.indptr, self.steps, self.cols)
        return Csr(self.indptr, indices, self.values.astype(np.float32), self.cols)


@dataclass(frozen=True, eq=False)
class PackedBsr:
    """What a file holds of a bsr weight; `unpack` checks it."""

    format: ClassVar[str] = "bsr16"
    rounds: ClassVar[bool] = True
    indptr: Array
    steps: Array
    values: Array
    height: int
    cols: int

    @classmethod
    def pack(cls, weight: Bsr, name: str) -> PackedBsr:
        """Rounds the values. FormatError for what float16 cannot hold."""
        values = to_float16(weight.values, name)
        return cls(weight.indptr, steps(weight.indptr, weight.indices), values, *weight.shape)

    def unpack(self) -> Bsr:
        """FormatError unless this stands for a sound weight."""
        require_dtype(self.values, np.float16, 3, f"{self.format}.values")
        across = -(-self.cols // max(1, self.values.shape[2]))
        indices = columns(self.format, self.indptr, self.steps, across)
        return Bsr(self.indptr, indices, self.values.astype(np.float32), self.height, self.cols)


@dataclass(frozen=True, eq=False)
class PackedTernary8:
    """What a file holds of a ternary8 weight; `unpack` checks it.

    Layout      codes    uint8 (rows, ceil(cols / 4))    as in ternary.py
                levels   int8 (rows, 2)                  positive, negative
    """

    format: ClassVar[str] = "ternary8"
    rounds: ClassVar[bool] = False
    codes: Array
    levels: Array
    scale: Array
    cols: int
    input: Quant
    output: Quant | None

    @classmethod
    def pack(cls, weight: Ternary8, name: str) -> PackedTernary8:
        """Loses nothing."""
        return cls(**weight.arrays(), cols=weight.shape[1], input=weight.input, output=weight.output)

    def unpack(self) -> Ternary8:
        """FormatError unless this stands for a sound weight."""
        require_dtype(self.codes, np.uint8, 2, "ternary8.codes")
        require_dtype(self.levels, np.int8, 2, "ternary8.levels")
        rows, wide = self.codes.shape
        if wide != -(-self.cols // 4) or self.levels.shape != (rows, 2):
            wanted = f"{-(-self.cols // 4)} bytes a row and levels {(rows, 2)}"
            raise FormatError(f"ternary8: got {wide} bytes a row and levels {self.levels.shape}, wanted {wanted}")
        codes = unpack(self.codes, 4 * wide)
        if (codes == 3).any() or codes[:, self.cols :].any():
            raise FormatError("ternary8.codes: code 3, or a code that is not 0 behind the end of a row")
        if (self.levels[:, 0] < 0).any() or (self.levels[:, 1] > 0).any():
            raise FormatError("ternary8.levels: wanted no negative number first and no positive one second")
        return Ternary8(decode(codes[:, : self.cols], self.levels), self.scale, self.input, self.output)


PACKED: dict[str, type[PackedCsr] | type[PackedBsr] | type[PackedTernary8]] = {
    "csr": PackedCsr, "bsr": PackedBsr, "ternary8": PackedTernary8,
}  # fmt: skip
"""By the format that they stand for. Those that round are for float16 files only."""


def steps(indptr: Array, indices: Array) -> Array:
    """The formula above: uint8 (m,)."""
    before = np.concatenate([[-1], indices[:-1]])[: indices.size]
    before[indptr[:-1][np.diff(indptr) > 0]] = -1  # a row starts anew
    zeros = indices.astype(np.int64) - before - 1
    ends = np.cumsum(zeros // LONG + 1)
    out = np.full(ends[-1] if ends.size else 0, LONG, np.uint8)
    out[ends - 1] = zeros % LONG
    return out


def columns(format: str, indptr: Array, steps: Array, cols: int) -> Array:
    """int32 (entries,) columns; FormatError unless steps and pointers fit each other and stay within `cols`."""
    require_dtype(steps, np.uint8, 1, f"{format}.steps")
    entry = steps < LONG
    check_pointers(format, indptr, int(entry.sum()))
    if steps.size and not entry[-1]:
        raise FormatError(f"{format}.steps: the last one is {LONG}, which has no entry behind it")
    ends = np.cumsum(steps.astype(np.int64) + entry)[entry]  # of all rows put end to end
    starts = np.concatenate([[0], ends])[indptr[:-1]]
    found = ends - np.repeat(starts, np.diff(indptr)) - 1
    beyond = found >= cols
    if beyond.any():
        at = int(np.argmax(beyond))
        raise FormatError(f"{format}.steps: entry {at} is at column {found[at]}, wanted 0 to {cols - 1}")
    return found.astype(np.int32)
