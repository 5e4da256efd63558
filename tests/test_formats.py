"""Laws that every weight format obeys, and what each refuses. A new format is tested by being in FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import matrices

from refstack.errors import FormatError
from refstack.formats import FORMATS, INTEGER, Array, Bsr, Csr, Int8, Quant, Ternary, Weight, activate
from refstack.formats.bsr import split
from refstack.formats.int8 import MAX_COLS, multiplier, requantize
from refstack.formats.ternary import pack, unpack

SIGNS = (0, 0, 0, 1.5, -0.25)
"""Matrices of these every format can hold."""

HALVES = (0, 0, 1.5, -0.25, 65504, -(2.0**-24), 1 + 2.0**-10)
"""What float16 holds exactly, its largest and smallest numbers among them."""

ENTRIES: dict[str, tuple[float, ...] | None] = {
    "dense": None, "csr": None, "bsr": None, "int8": None, "half": HALVES, "ternary": SIGNS, "ternary8": SIGNS,
}  # fmt: skip
"""What a format can hold: anything, or a few values."""


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def drawn(format: str) -> st.SearchStrategy[Array]:
    return matrices(ENTRIES.get(format, SIGNS))


def non_canonical(weight: Weight) -> Weight:
    """The same matrix stored as `encode` would not: stored zeros, scales that nothing uses."""
    if isinstance(weight, Csr):
        dense = weight.decode()
        indices = np.tile(np.arange(dense.shape[1], dtype=np.int32), dense.shape[0])
        return Csr(np.arange(dense.shape[0] + 1, dtype=np.int32) * dense.shape[1], indices, dense.ravel(), weight.cols)
    if isinstance(weight, Bsr):
        stored = Bsr.encode(np.ones(weight.shape), (2, 3))  # every block, and blocks that no side is a multiple of
        blocks = split(weight.decode(), (2, 3))
        return replace(stored, values=blocks.reshape(-1, 2, 3))
    if isinstance(weight, Ternary):
        return replace(weight, scales=np.where(weight.scales == 0, np.float32(3), weight.scales))
    return weight


def both(format: str, matrix: Array) -> tuple[Weight, Weight]:
    weight = FORMATS[format].encode(matrix)
    return weight, non_canonical(weight)


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(format: str) -> None:
    """Bit for bit, -0 apart; int8 within half a step of each row's scale."""

    @given(drawn(format))
    def check(matrix: Array) -> None:
        for weight in both(format, matrix):
            back = weight.decode()
            assert (back.shape, back.dtype) == (matrix.shape, np.float32)
            if isinstance(weight, Int8):
                assert (np.abs(back.astype(np.float64) - matrix) <= weight.scale[:, None] * (0.5 + 2**-15)).all()
            else:
                np.testing.assert_array_equal(back, matrix)

    check()


@pytest.mark.parametrize("format", FORMATS)
def test_matmul_is_the_decoded_product(format: str) -> None:
    """Exact on integers, float32 and float64, in the dtype that came in. int8 multiplies its stored values."""
    limits = tuple(range(-8, 9)) if "ternary" not in format else (0, 3, -5)

    @given(matrices(limits), st.integers(1, 5), st.integers(0, 2**16))
    def check(matrix: Array, columns: int, seed: int) -> None:
        x = np.random.default_rng(seed).integers(-100, 101, (matrix.shape[1], columns))
        for weight in both(format, matrix):
            stored = weight.values if isinstance(weight, Int8) else weight.decode()
            wanted = [list(row) for row in zip(*oracle.linear(x.T.tolist(), stored.tolist(), None), strict=True)]
            for dtype in (np.int8,) if format in INTEGER else (np.float32, np.float64):
                y = weight.matmul(x.astype(dtype))
                assert y.dtype == (np.int64 if format in INTEGER else dtype)
                assert y.tolist() == wanted

    check()


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_slices(format: str) -> None:
    @given(drawn(format), st.data())
    def check(matrix: Array, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, matrix.shape[0]))
        stop = data.draw(st.integers(start, matrix.shape[0]))
        for weight in both(format, matrix):
            part = weight.rows(start, stop)
            part.check()
            assert part.format == format
            assert part.shape == (stop - start, matrix.shape[1])
            np.testing.assert_array_equal(part.decode(), weight.decode()[start:stop])
            if format not in INTEGER:  # what is stored stays stored: it multiplies infinity, even as a zero
                x = np.full((matrix.shape[1], 1), np.inf)
                with np.errstate(invalid="ignore"):
                    np.testing.assert_array_equal(part.matmul(x), weight.matmul(x)[start:stop])

    check()


BYTES: dict[str, Callable[[Weight], int]] = {
    "dense": lambda weight: 4 * weight.shape[0] * weight.shape[1],
    "csr": lambda weight: 4 * (weight.shape[0] + 1) + 8 * weight.nnz,
    "bsr": lambda weight: (
        4 * (-(-weight.shape[0] // weight.block[0]) + 1)
        + (4 + 4 * weight.block[0] * weight.block[1]) * len(weight.indices)
    ),
    "half": lambda weight: 2 * weight.shape[0] * weight.shape[1],
    "ternary": lambda weight: weight.shape[0] * ((weight.shape[1] + 3) // 4) + 8,
    "int8": lambda weight: weight.shape[0] * weight.shape[1] + 4 * weight.shape[0],
    "ternary8": lambda weight: weight.shape[0] * ((weight.shape[1] + 3) // 4 + 2 + 4),
}


@pytest.mark.parametrize("format", FORMATS)
def test_sizes(format: str) -> None:
    """The byte formula of the docstring, the sum of the arrays, the count of non-zeros."""

    @given(drawn(format))
    def check(matrix: Array) -> None:
        for weight in both(format, matrix):
            assert weight.nbytes == sum(array.nbytes for array in weight.arrays().values()) == BYTES[format](weight)
        weight = FORMATS[format].encode(matrix)
        if format not in INTEGER:  # small entries may become zero
            assert weight.nnz == sum(value != 0 for row in matrix.tolist() for value in row)
        assert weight.density == weight.nnz / matrix.size

    check()


@pytest.mark.parametrize("format", FORMATS)
def test_encodings_are_sound(format: str) -> None:
    @given(drawn(format))
    def check(matrix: Array) -> None:
        for weight in both(format, matrix):
            weight.check()

    check()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5), (4, 8), (2, 4), (5, 7)])
@pytest.mark.parametrize("fill", [0.0, 2.0, -2.0])
def test_uniform_matrices(format: str, shape: tuple[int, int], fill: float) -> None:
    """Nothing, all positive, all negative; one entry; whole and broken groups of four columns."""
    matrix = np.full(shape, fill, np.float32)
    weight = FORMATS[format].encode(matrix)
    weight.check()
    np.testing.assert_array_equal(weight.decode(), matrix)
    assert weight.density == float(fill != 0 and matrix.size > 0)
    assert weight.zero == 0


@pytest.mark.parametrize("format", FORMATS)
def test_encode_copies(format: str) -> None:
    """A later change of the matrix does not reach the weight, nor a change of what decode gave."""
    matrix = np.array([[1.5, 0], [0, -0.25]], np.float32)
    weight = FORMATS[format].encode(matrix)
    before = weight.decode().copy()
    matrix[...] = 9
    weight.decode()[...] = 9
    np.testing.assert_array_equal(weight.decode(), before)


@pytest.mark.parametrize("format", FORMATS)
def test_encode_accepts_any_layout(format: str) -> None:
    matrix = np.array([[1.5, 0, 1.5], [0, -0.25, 0]], np.float32)
    for view in (np.asfortranarray(matrix), matrix.astype(np.float64), np.repeat(matrix, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(FORMATS[format].encode(view).decode(), FORMATS[format].encode(matrix).decode())


@pytest.mark.parametrize("format", FORMATS)
def test_encode_refuses(format: str) -> None:
    with pytest.raises(FormatError, match=rf"{format}: weight has shape \(2, 2, 1\), wanted a matrix \(rows, cols\)"):
        FORMATS[format].encode(np.zeros((2, 2, 1)))
    matrix = np.zeros((2, 3))
    matrix[1, 1:] = np.nan
    with pytest.raises(FormatError, match=rf"{format} weight: 2 values are not finite, the first is nan at \(1, 1\)"):
        FORMATS[format].encode(matrix)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_affine_adds_bias_and_activates(format: str, activation: Any) -> None:
    """On -20..20, so that both ends of both activations are reached."""
    weight = FORMATS[format].encode(np.array([[127.0], [0.0]]))
    dtype = np.int8 if format in INTEGER else np.float32
    bias = None if activation is None else np.array([3, 4], np.float32)
    if format in INTEGER:
        weight = replace(weight, scale=np.ones(2, np.float32), values=np.array([[1], [0]], np.int8))
    elif format == "ternary":
        weight = replace(weight, scales=np.ones(2, np.float32))
    else:
        weight = FORMATS[format].encode(np.array([[1.0], [0.0]]))
    x = np.arange(-20, 21).astype(dtype)[None]
    wanted = [[v + (3 if bias is not None else 0) for v in range(-20, 21)], [4 if bias is not None else 0] * 41]
    if activation:
        wanted = oracle.relu(wanted, activation == "relu6")
    assert weight.affine(x, bias, activation).tolist() == wanted


def test_activate() -> None:
    x = np.array([np.nan, -1, -0.0, 0.5, 6, 7, np.inf], np.float32)
    np.testing.assert_array_equal(activate(x, "relu"), np.array([np.nan, 0, 0, 0.5, 6, 7, np.inf], np.float32))
    np.testing.assert_array_equal(activate(x, "relu6"), np.array([np.nan, 0, 0, 0.5, 6, 6, 6], np.float32))
    assert activate(x, None) is x
    assert activate(x, "relu").dtype == np.float32


@given(matrices((0, 1, 2)))
def test_ternary_packing(codes: Array) -> None:
    """Column j in byte j // 4, bits 2 * (j % 4) and up; unused bits are 0."""
    codes = codes.astype(np.uint8)
    wanted = [
        [sum(int(code) << (2 * i) for i, code in enumerate(row[j : j + 4])) for j in range(0, len(row), 4)]
        for row in codes.tolist()
    ]
    assert pack(codes).tolist() == wanted
    assert pack(codes).dtype == np.uint8
    np.testing.assert_array_equal(unpack(pack(codes), codes.shape[1]), codes)


def test_ternary_refuses_a_matrix_that_is_not_ternary() -> None:
    with pytest.raises(FormatError, match="ternary: 2 positive and 1 negative values, wanted at most one of each"):
        Ternary.encode(np.array([[1, 2, -1]]))


@given(matrices(SIGNS))
def test_ternary_without_bias_scales_by_row_slices(matrix: Array) -> None:
    """rows() keeps the layer's two scales even where a slice uses neither."""
    weight = Ternary.encode(matrix)
    for k in range(matrix.shape[0]):
        assert weight.rows(k, k + 1).scales is weight.scales


@given(st.floats(2.0**-31, 2.0**29))
def test_multiplier(real: float) -> None:
    """The nearest 31-bit mantissa: relative error at most 2**-31."""
    m0, shift = multiplier(real)
    assert 2**30 <= m0 < 2**31
    assert 1 <= shift <= 62
    assert abs(Fraction(m0, 2**shift) - Fraction(real)) <= Fraction(real) / 2**31
    assert (m0, shift) == oracle.multiplier(Fraction(real))


def test_multiplier_at_the_edges() -> None:
    assert multiplier(1.0) == (2**30, 30)
    assert multiplier(float(np.nextafter(1, 0))) == (2**30, 30)
    assert multiplier(2.0**-40) == (0, 62)
    with pytest.raises(FormatError, match=r"int8: output scale is 2\*\*30 times finer than the accumulator"):
        multiplier(2.0**31)


def test_requantize() -> None:
    """10,000 accumulators against big integers: random, at both ends of int32, and ties."""
    rng = np.random.default_rng(0)
    count = 10_000
    m0, shift = rng.integers(2**30, 2**31, count), rng.integers(1, 63, count)
    acc = rng.integers(-(2**31), 2**31, count) >> rng.integers(0, 31, count)
    acc[:4] = (-(2**31), 2**31 - 1, -(2**31), 2**31 - 1)
    ties = slice(100, 4000)
    m0[ties], shift[ties] = 2**30, rng.integers(31, 42, 3900)
    acc[ties] = (2 * rng.integers(-200, 200, 3900) + 1) << (shift[ties] - 31)  # odd multiples of a half
    got = requantize(acc[:, None], m0[:, None], shift[:, None], 5)[:, 0]
    wanted = [oracle.requantize(int(a), int(m), int(s), 5) for a, m, s in zip(acc, m0, shift, strict=True)]
    assert got.dtype == np.int8
    assert got.tolist() == wanted
    halves = [Fraction(int(a) * int(m), 2 ** int(s)) for a, m, s in zip(acc[ties], m0[ties], shift[ties], strict=True)]
    assert all(half.denominator == 2 for half in halves), "the ties are ties"


def test_int8_sums_reach_the_limit() -> None:
    """The widest row of the largest products is exact, and fits int32 with its bias."""
    weight = Int8(np.full((2, MAX_COLS), 127, np.int8), f32(1, 1), Quant(1.0, -128))
    weight.check()
    sums = weight.matmul(np.full((MAX_COLS, 1), 127, np.int8))
    assert sums.tolist() == [[127 * 255 * MAX_COLS]] * 2
    assert sums.max() + 2**30 < 2**31
    assert weight.integer_bias(f32(1e30, -1e30)).tolist() == [2**30, -(2**30)]


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), st.integers(-128, 127), st.integers(-20, 10))
def test_quant(values: list[float], zero_point: int, exponent: int) -> None:
    """Against the oracle, with scales that are powers of two (exact, so ties are met) and not."""
    for scale in (2.0**exponent, 0.1 * 2.0**exponent):
        got = Quant(scale, zero_point).quantize(np.array(values, np.float32))
        assert got.dtype == np.int8
        assert got.tolist() == oracle.quantize(np.array(values, np.float32).tolist(), scale, zero_point)
