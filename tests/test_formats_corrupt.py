"""What each format's check() refuses: encodings one change away from a sound one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refstack.errors import FormatError
from refstack.formats import Array, Bsr, Csr, Dense, Half, Int8, Quant, Ternary, Ternary8, Weight
from refstack.formats.int8 import MAX_COLS

CSR = Csr.encode(np.array([[1, 0, 2], [0, 0, 0], [0, 3, 0]]))
TERNARY = Ternary.encode(np.array([[1, 0, -2, 0, 1], [0, 0, 0, 0, 0]]))
INT8 = Int8.encode(np.array([[1, 2], [3, 4]]), Quant(0.5, 3), Quant(0.25, -4))
TERNARY8 = Ternary8.encode(np.array([[1, 0, -2, 0, 1], [0, 0, 0, 0, 0]]), Quant(0.5, 3), Quant(0.25, -4))
DENSE = Dense.encode(np.ones((2, 3)))
HALF = Half.encode(np.ones((2, 3)))
BSR = Bsr.encode(np.array([[1, 0, 2], [0, 0, 0], [0, 3, 0]]), (2, 2))


def i32(*values: int) -> Array:
    return np.array(values, np.int32)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def with_code_3(weight: Ternary) -> Ternary:
    codes = weight.codes.copy()
    codes[1, 0] |= 3 << 4
    return replace(weight, codes=codes)


def with_value(weight: Bsr, at: tuple[int, ...], value: float = 1) -> Bsr:
    values = weight.values.copy()
    values[at] = value
    return replace(weight, values=values)


def with_tail(weight: Ternary) -> Ternary:
    codes = weight.codes.copy()
    codes[0, 1] |= 1 << 2
    return replace(weight, codes=codes)


CORRUPT: dict[str, tuple[Weight, str]] = {
    "dense dtype": (Dense(np.ones((2, 3))), "dense.values: got float64 with 2 axes, wanted float32 with 2 axes"),
    "dense axes": (Dense(f32(1)), "dense.values: got float32 with 1 axes, wanted float32 with 2 axes"),
    "dense inf": (Dense(f32(1, np.inf)[None]), r"dense.values: 1 values are not finite, the first is inf at \(0, 1\)"),
    "csr indptr dtype": (replace(CSR, indptr=CSR.indptr.astype(np.int64)), "csr.indptr: got int64 with 1 axes"),
    "csr indices dtype": (replace(CSR, indices=CSR.indices.astype(np.uint32)), "csr.indices: got uint32"),
    "csr values dtype": (replace(CSR, values=CSR.values.astype(np.float16)), "csr.values: got float16"),
    "csr indptr empty": (replace(CSR, indptr=i32()), "csr.indptr: must run from 0 to the 3 stored entries"),
    "csr indptr start": (replace(CSR, indptr=i32(1, 2, 2, 3)), "csr.indptr: must run from 0 to the 3 stored entries"),
    "csr indptr end": (replace(CSR, indptr=i32(0, 2, 2, 4)), "csr.indptr: must run from 0 to the 3 stored entries"),
    "csr indptr falls": (replace(CSR, indptr=i32(0, 3, 2, 3)), "csr.indptr: falls after row 1"),
    "csr indptr wraps": (replace(CSR, indptr=i32(0, 2**31 - 1, -(2**31), 3)), "csr.indptr: falls after row 1"),
    "csr values missing": (replace(CSR, values=f32(1, 2)), "csr: 3 indices but 2 values"),
    "csr column high": (replace(CSR, indices=i32(0, 2, 3)), "csr.indices: column 3 at entry 2, wanted 0 to 2"),
    "csr column low": (replace(CSR, indices=i32(0, -1, 1)), "csr.indices: column -1 at entry 1, wanted 0 to 2"),
    "csr unsorted": (replace(CSR, indices=i32(2, 0, 1)), "csr.indices: columns must rise within a row, entry 1"),
    "csr duplicate": (replace(CSR, indices=i32(2, 2, 1)), "csr.indices: columns must rise within a row, entry 1"),
    "csr nan": (replace(CSR, values=f32(1, np.nan, 2)), "csr.values: 1 values are not finite, the first is nan at .1,"),
    "half dtype": (Half(np.ones((2, 3), np.float32)), "half.values: got float32 with 2 axes, wanted float16 with 2"),
    "half inf": (Half(np.full((1, 2), np.inf, np.float16)), "half.values: 2 values are not finite, .* inf at"),
    "bsr values axes": (replace(BSR, values=f32(1, 2)[:, None]), "bsr.values: got float32 with 2 axes, wanted"),
    "bsr values dtype": (replace(BSR, values=BSR.values.astype(np.float16)), "bsr.values: got float16"),
    "bsr block": (replace(BSR, values=np.zeros((3, 2, 0), np.float32)), "bsr: blocks of 2 x 0, wanted sides of 1 to"),
    "bsr indptr dtype": (replace(BSR, indptr=BSR.indptr.astype(np.int64)), "bsr.indptr: got int64 with 1 axes"),
    "bsr indices dtype": (replace(BSR, indices=BSR.indices.astype(np.uint32)), "bsr.indices: got uint32"),
    "bsr height": (replace(BSR, height=5), "bsr.indptr: 2 rows of blocks for 5 rows and 3 columns, wanted one"),
    "bsr negative": (replace(BSR, cols=-1), "bsr.indptr: 2 rows of blocks for 3 rows and -1 columns"),
    "bsr indptr falls": (replace(BSR, indptr=i32(0, 4, 3)), "bsr.indptr: falls after row 1"),
    "bsr blocks missing": (replace(BSR, values=BSR.values[1:]), "bsr: 3 indices but 2 values"),
    "bsr column": (replace(BSR, indices=i32(0, 1, 2)), "bsr.indices: column 2 at entry 2, wanted 0 to 1"),
    "bsr unsorted": (replace(BSR, indices=i32(1, 0, 0)), "bsr.indices: columns must rise within a row, entry 1"),
    "bsr below": (with_value(BSR, (2, 1, 1)), r"bsr.values: a block holds numbers beyond the matrix \(3, 3\)"),
    "bsr right": (with_value(BSR, (1, 0, 1)), r"bsr.values: a block holds numbers beyond the matrix \(3, 3\)"),
    "bsr nan": (with_value(BSR, (0, 1, 0), np.nan), "bsr.values: 1 values are not finite, the first is nan at .0, 1"),
    "ternary codes dtype": (replace(TERNARY, codes=TERNARY.codes.astype(np.int8)), "ternary.codes: got int8"),
    "ternary scales dtype": (replace(TERNARY, scales=np.ones(2)), "ternary.scales: got float64"),
    "ternary one scale": (replace(TERNARY, scales=f32(1)), "ternary: 1 scales and 2 bytes a row, wanted 2 scales"),
    "ternary cols": (replace(TERNARY, cols=9), "ternary: 2 scales and 2 bytes a row, wanted 2 scales and 3"),
    "ternary code 3": (with_code_3(TERNARY), r"ternary.codes: code 3 at \(1, 2\) is illegal"),
    "ternary tail": (with_tail(TERNARY), "ternary.codes: the unused codes at the end of a row must be 0"),
    "ternary inf": (replace(TERNARY, scales=f32(np.inf, 1)), "ternary.scales: 1 values are not finite"),
    "ternary negative": (replace(TERNARY, scales=f32(1, -1)), "ternary.scales: .* must not be negative"),
    "int8 dtype": (replace(INT8, values=INT8.values.astype(np.int16)), "int8.values: got int16"),
    "int8 scale dtype": (replace(INT8, scale=np.ones(2)), "int8.scale: got float64"),
    "int8 scales missing": (replace(INT8, scale=f32(1)), "int8: 1 scales for 2 rows"),
    "int8 wide": (Int8(np.zeros((1, MAX_COLS + 1), np.int8), f32(1), Quant(1, 0)), "33156 columns may overflow int32"),
    "int8 -128": (replace(INT8, values=np.full((2, 2), -128, np.int8)), "int8.values: -128 is not used"),
    "int8 scale nan": (replace(INT8, scale=f32(1, np.nan)), "int8.scale: 1 values are not finite"),
    "int8 scale 0": (replace(INT8, scale=f32(1, 0)), "int8.scale: row 1 has a scale that is not positive"),
    "int8 input scale": (replace(INT8, input=Quant(0, 0)), "int8.input: .*scale=0.* needs a positive scale"),
    "int8 input inf": (replace(INT8, input=Quant(np.inf, 0)), "int8.input: .*scale=inf.* needs a positive scale"),
    "int8 zero point": (replace(INT8, output=Quant(1, 128)), "int8.output: .*zero_point=128.* zero point in -128..127"),
    "int8 unit": (replace(INT8, input=Quant(1e-30, 0), scale=f32(1, 1e-30)), "of row 1 is no float32"),
    "ternary8 third value": (
        replace(TERNARY8, values=np.array([[0, 5, -5], [1, 2, 0]], np.int8)),
        r"ternary8.values: row 1 has \[0, 1, 2\], wanted at most one positive and one negative value beside 0",
    ),
    "ternary8 -128": (replace(TERNARY8, values=np.full((2, 2), -128, np.int8)), "int8.values: -128 is not used"),
    "int8 fine output": (replace(INT8, output=Quant(1e-12, 0)), r"output scale is 2\*\*30 times finer"),
}  # fmt: skip


@pytest.mark.parametrize("sound", [DENSE, CSR, BSR, HALF, TERNARY, INT8, TERNARY8], ids=lambda weight: weight.format)
def test_sound_weight_is_accepted(sound: Weight) -> None:
    sound.check()


@pytest.mark.parametrize(("corrupt", "message"), CORRUPT.values(), ids=CORRUPT)
def test_corruption_is_refused(corrupt: Weight, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        corrupt.check()
