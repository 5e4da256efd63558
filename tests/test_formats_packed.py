"""Packed files of sparse and ternary8 weights, blocks, half precision: each against its formula, written out again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refstack.errors import FormatError
from refstack.formats import Array, Bsr, Csr, Half, Quant, Ternary8
from refstack.formats.packed import PackedBsr, PackedCsr, PackedTernary8, steps


@st.composite
def wide(draw: st.DrawFn) -> Array:
    """A few rows of many columns, entries near each other and far apart, all of them float16 numbers."""
    rows, cols = draw(st.integers(1, 5)), draw(st.sampled_from((1, 2, 254, 255, 256, 257, 510, 511, 512, 1300)))
    matrix = np.zeros((rows, cols), np.float32)
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, cols - 1))
    for row, col in draw(st.lists(places, max_size=12)):
        matrix[row, col] = draw(st.sampled_from((1.0, -0.5, 65504.0)))
    return matrix


def by_hand(matrix: Array) -> list[int]:
    """Steps from the definition: zeros passed, 255 at a time."""
    found = []
    for row in matrix.tolist():
        zeros = 0
        for value in row:
            if value == 0:
                zeros += 1
                continue
            found += [255] * (zeros // 255) + [zeros % 255]
            zeros = 0
    return found


@given(wide())
def test_steps_are_the_zeros_passed(matrix: Array) -> None:
    weight = Csr.encode(matrix)
    assert steps(weight.indptr, weight.indices).tolist() == by_hand(matrix)
    packed = PackedCsr.pack(weight, "w")
    back = packed.unpack()
    back.check()
    assert all(np.array_equal(back.arrays()[name], array) for name, array in weight.arrays().items())
    assert back.cols == weight.cols


@given(wide(), st.integers(1, 4), st.integers(1, 7))
def test_packed_blocks_come_back(matrix: Array, r: int, c: int) -> None:
    weight = Bsr.encode(matrix, (r, c))
    back = PackedBsr.pack(weight, "w").unpack()
    back.check()
    assert all(np.array_equal(back.arrays()[name], array) for name, array in weight.arrays().items())
    assert (back.shape, back.block) == (weight.shape, (r, c))


def test_a_tenth_of_the_weights_takes_three_bytes_each() -> None:
    rng = np.random.default_rng(0)
    matrix = np.where(rng.random((64, 576)) < 0.1, rng.standard_normal((64, 576)), 0)
    weight = Csr.encode(matrix)
    packed = PackedCsr.pack(weight, "w")
    assert packed.steps.nbytes + packed.values.nbytes == 3 * weight.nnz
    assert weight.nbytes == 8 * weight.nnz + 4 * 65


def test_stored_zeros_stay_and_values_round() -> None:
    weight = replace(Csr.encode(np.ones((1, 3))), values=np.array([0, 1 + 2.0**-12, 1e-9], np.float32))
    back = PackedCsr.pack(weight, "w").unpack()
    assert back.values.tolist() == [0, 1, 0]
    assert back.nnz == 3


# ternary8

T8 = Ternary8.encode(np.array([[1, 0, -2, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 3]]), Quant(0.5, 3), Quant(0.25, -4))


def test_ternary8_comes_back() -> None:
    packed = PackedTernary8.pack(T8, "w")
    assert packed.codes.tolist() == [[0b00100001, 1], [0, 0], [0, 1]]
    assert packed.levels.tolist() == [[64, -127], [0, 0], [127, 0]]
    back = packed.unpack()
    back.check()
    assert back.values.tolist() == [[64, 0, -127, 0, 64], [0] * 5, [0, 0, 0, 0, 127]]
    assert (back.scale.tolist(), back.input, back.output) == (T8.scale.tolist(), T8.input, T8.output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.array([[3, 0]] * 3, np.uint8)}, "ternary8.codes: code 3"),
        ({"codes": np.array([[0, 4]] * 3, np.uint8)}, "ternary8.codes: .* not 0 behind the end of a row"),
        ({"codes": np.zeros((3, 2), np.int8)}, "ternary8.codes: got int8"),
        ({"levels": np.zeros((3, 2), np.uint8)}, "ternary8.levels: got uint8"),
        ({"levels": np.array([[1, -1], [-1, 0], [0, 0]], np.int8)}, "ternary8.levels: wanted no negative number first"),
        ({"levels": np.array([[1, 1], [0, 0], [0, 0]], np.int8)}, "ternary8.levels: .* no positive one second"),
        ({"levels": np.zeros((2, 2), np.int8)}, r"ternary8: got 2 bytes a row and levels \(2, 2\), wanted 2 bytes"),
        ({"cols": 9}, "ternary8: got 2 bytes a row .* wanted 3 bytes a row"),
        ({"cols": -3}, "ternary8: got 2 bytes a row .* wanted 0 bytes a row"),
    ],
)
def test_corrupt_ternary8_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        replace(PackedTernary8.pack(T8, "w"), **change).unpack()


# Blocks


def test_blocks_hold_sixteen_filters_of_one_input() -> None:
    matrix = np.zeros((40, 5))
    matrix[3, 1] = matrix[15, 1] = matrix[39, 4] = 2
    weight = Bsr.encode(matrix)
    assert weight.block == (16, 1)
    assert (weight.indptr.tolist(), weight.indices.tolist()) == ([0, 1, 1, 2], [1, 4])
    assert weight.nnz == 3
    assert weight.nbytes == 4 * 4 + 2 * 4 + 2 * 64


@pytest.mark.parametrize("block", [(0, 1), (1, 257), (-1, 1)])
def test_blocks_of_no_size(block: tuple[int, int]) -> None:
    with pytest.raises(FormatError, match=rf"bsr: blocks of {block[0]} x {block[1]}, wanted sides of 1 to 256"):
        Bsr.encode(np.ones((2, 2)), block)


def test_a_stored_zero_multiplies_and_one_that_is_not_stored_does_not() -> None:
    weight = Bsr.encode(np.array([[1, 0, 0], [0, 0, 0], [0, 0, 5]]), (2, 1))
    x = np.array([[np.inf], [np.inf], [1]], np.float32)
    with np.errstate(invalid="ignore"):
        for each in (weight, weight.csr()):
            np.testing.assert_array_equal(each.matmul(x), np.array([[np.inf], [np.nan], [5]], np.float32))
    entries = weight.csr()
    entries.check()
    assert entries.values.size == 3  # the two of the first block, and the one of the second that is in the matrix


# Half precision


def test_half_rounds_to_even_and_refuses_what_overflows() -> None:
    values = [1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-25, 3 * 2.0**-26, 65519, -65504]
    assert Half.encode(np.array([values])).decode().tolist() == [[1, 1 + 2 * 2.0**-10, 0, 2.0**-24, 65504, -65504]]
    with pytest.raises(FormatError, match=r"half weight: 2 values overflow float16, first 65520.0 at \(1, 0\); use"):
        Half.encode(np.array([[1, 2], [65520, -1e9]]))


def test_half_multiplies_in_the_inputs_precision() -> None:
    """2049 is no float16: arithmetic in half precision would round it away."""
    weight = Half.encode(np.ones((1, 2)))
    assert weight.matmul(np.array([[2048], [1]], np.float32)).tolist() == [[2049]]
    assert weight.matmul(np.array([[2.0**40], [1]])).tolist() == [[2.0**40 + 1]]
