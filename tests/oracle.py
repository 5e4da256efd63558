"""The second oracle: every layer in Python integers and fractions, on nested lists, without NumPy or refstack.

It is slow and shares no formula with refstack. Where the reference gathers (an output looks up its inputs), this file
scatters: every pixel is carried to the outputs whose window covers it. Sizes are found by counting window positions.
Numbers are int or Fraction; `exact` turns arrays into them. Only `softmax` (Decimal) and the float32 roundings that
the int8 contract names are not rational.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

Nested = Any  # a number, or a list of Nested
Pair = tuple[int, int]
Sides = tuple[int, int, int, int]  # top, left, bottom, right

NAN = float("nan")


def exact(values: Nested) -> Nested:
    """Floats as fractions, all else as it is; non-finite floats stay floats."""
    if isinstance(values, list):
        return [exact(value) for value in values]
    return Fraction(values) if isinstance(values, float) and math.isfinite(values) else values


def each(function: Callable[..., Any], *values: Nested) -> Nested:
    """`function` on every number of lists that are nested alike."""
    if isinstance(values[0], list):
        return [each(function, *entries) for entries in zip(*values, strict=True)]
    return function(*values)


def float32(value: float) -> float:
    """The float32 nearest to a float64, ties to even."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def count_positions(size: int, window: int, stride: int, before: int, after: int, dilation: int) -> int:
    """How many places a window has on a padded line: every stride-th start at which its last tap still fits."""
    padded = range(before + size + after)
    return sum(start % stride == 0 and start + (window - 1) * dilation in padded for start in padded)


def _coverings(
    size: int, window: int, stride: int, before: int, dilation: int, places: int
) -> list[tuple[int, int, int]]:
    """(pixel, tap, place): tap of the window at that place lies on the pixel."""
    found = []
    for pixel in range(size):
        for tap in range(window):
            start = pixel + before - tap * dilation
            if start >= 0 and start % stride == 0 and start // stride < places:
                found.append((pixel, tap, start // stride))
    return found


def _plane(h: int, w: int, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> tuple[int, int, Any, Any]:
    top, left, bottom, right = padding
    p = count_positions(h, kernel[0], stride[0], top, bottom, dilation[0])
    q = count_positions(w, kernel[1], stride[1], left, right, dilation[1])
    down = _coverings(h, kernel[0], stride[0], top, dilation[0], p)
    across = _coverings(w, kernel[1], stride[1], left, dilation[1], q)
    return p, q, down, across


def conv2d(
    x: Nested, weight: Nested, bias: Sequence[Any] | None,
    stride: Pair, padding: Sides, dilation: Pair, groups: int, zero: int = 0,
) -> Nested:  # fmt: skip
    """x [n][c][h][w], weight [k][c/g][r][s] -> [n][k][p][q].  What is added per tap: (x - zero) * w."""
    k, c_group = len(weight), len(weight[0])
    kernel = (len(weight[0][0]), len(weight[0][0][0]))
    result = []
    for image in x:
        p, q, down, across = _plane(len(image[0]), len(image[0][0]), kernel, stride, padding, dilation)
        planes = [[[bias[out] if bias is not None else 0] * q for _ in range(p)] for out in range(k)]
        for channel, pixels in enumerate(image):
            group, within = divmod(channel, c_group)
            for out in range(k):
                if out * groups // k != group:
                    continue
                taps = weight[out][within]
                for i, r, row in down:
                    for j, s, column in across:
                        planes[out][row][column] += (pixels[i][j] - zero) * taps[r][s]
        result.append(planes)
    return result


def linear(x: Nested, weight: Nested, bias: Sequence[Any] | None, zero: int = 0) -> Nested:
    """x [n][c], weight [k][c] -> [n][k]."""
    rows = []
    for vector in x:
        row = [sum((a - zero) * b for a, b in zip(vector, taps, strict=True)) for taps in weight]
        rows.append([y + bias[k] if bias is not None else y for k, y in enumerate(row)])
    return rows


def _windows(plane: Nested, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> list[list[list[Any]]]:
    """[p][q]: the pixels (padding left out) that each window covers."""
    p, q, down, across = _plane(len(plane), len(plane[0]), kernel, stride, padding, dilation)
    covered: list[list[list[Any]]] = [[[] for _ in range(q)] for _ in range(p)]
    for i, _, row in down:
        for j, _, column in across:
            covered[row][column].append(plane[i][j])
    return covered


def _largest(values: list[Any]) -> Any:
    return NAN if any(value != value for value in values) else max(values)


def maxpool(x: Nested, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Nested:
    """The largest pixel that each window covers; NaN if it covers one."""
    return [[[[_largest(v) for v in row] for row in _windows(plane, kernel, stride, padding, dilation)]
             for plane in image] for image in x]  # fmt: skip


def avgpool(x: Nested, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair, count_padding: bool) -> Nested:
    """Sum over the pixels that each window covers, by their number or by the window's."""

    def mean(values: list[Any]) -> Fraction:
        return Fraction(sum(values)) / (kernel[0] * kernel[1] if count_padding else len(values))

    return [[[[mean(v) for v in row] for row in _windows(plane, kernel, stride, padding, dilation)]
             for plane in image] for image in x]  # fmt: skip


def globalavgpool(x: Nested) -> Nested:
    """Sum of a plane by its number of pixels, kept as a plane of one."""
    return [[[[Fraction(sum(map(sum, plane))) / (len(plane) * len(plane[0]))]] for plane in image] for image in x]


def root(value: Fraction) -> Fraction:
    """The square root of the square of a fraction."""
    numerator, denominator = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if Fraction(numerator, denominator) ** 2 != value:
        raise ValueError(f"{value} is no square")
    return Fraction(numerator, denominator)


def batchnorm(x: Nested, gamma: Any, beta: Any, mean: Any, var: Any, eps: Any) -> Nested:
    """Each channel shifted by its mean, divided by a root, scaled, shifted. var + eps must be squares of fractions."""
    return [[each(lambda v, c=c: (v - mean[c]) / root(Fraction(var[c]) + eps) * gamma[c] + beta[c], plane)
             for c, plane in enumerate(image)] for image in x]  # fmt: skip


def relu(x: Nested, six: bool = False) -> Nested:
    """Negative numbers become 0, and with `six` those above 6 become 6. NaN stays."""
    return each(lambda v: v if v != v else 0 if v < 0 else 6 if six and v > 6 else v, x)


def add(x0: Nested, x1: Nested) -> Nested:
    """Number by number."""
    return each(lambda a, b: a + b, x0, x1)


def concat(*xs: Nested) -> Nested:
    """The channels of each image, one input after the other."""
    return [[channel for image in images for channel in image] for images in zip(*xs, strict=True)]


def flatten(x: Nested) -> Nested:
    """Each image's numbers in reading order."""

    def numbers(value: Nested) -> Iterator[Any]:
        if isinstance(value, list):
            for entry in value:
                yield from numbers(entry)
        else:
            yield value

    return [list(numbers(image)) for image in x]


def softmax(x: Nested) -> Nested:
    """exp(v) / sum of exp, in 60 decimal digits (no shift by the maximum: Decimal does not overflow)."""
    rows = []
    with localcontext() as context:
        context.prec = 60
        for vector in x:
            powers = [Decimal(float(v)).exp() for v in vector]
            rows.append([power / sum(powers) for power in powers])
    return rows


def round_half_even(value: Fraction) -> int:
    """The nearest integer, the even one in the middle."""
    below = value.numerator // value.denominator
    over = 2 * (value - below)
    return below + (over > 1 or (over == 1 and below % 2 == 1))


def clamp8(value: int) -> int:
    """The nearest int8."""
    return min(max(value, -128), 127)


def quantize(x: Nested, scale: float, zero_point: int) -> Nested:
    """The nearest grid point; the quotient is a float64, as the contract says."""
    return each(lambda v: clamp8(round_half_even(Fraction(v / scale)) + zero_point), x)


def multiplier(real: Fraction) -> Pair:
    """(M0, shift) with M0 / 2**shift nearest to real and 2**30 <= M0 < 2**31."""
    shift = 0
    while real * 2**shift < 2**30:
        shift += 1
    while real * 2**shift >= 2**31:
        shift -= 1
    m0 = round_half_even(real * 2**shift)
    return (m0, shift) if m0 < 2**31 else (m0 // 2, shift - 1)


def requantize(accumulator: int, m0: int, shift: int, zero_point: int) -> int:
    """accumulator * M0 / 2**shift to the nearest integer, halves upwards; then the zero point, then the clamp."""
    nearest = (Fraction(accumulator * m0, 2**shift) + Fraction(1, 2)).__floor__()
    return clamp8(nearest + zero_point)


def int8_rows(
    products: Sequence[Any], bias: Sequence[float] | None, scales: Sequence[float], input_scale: float,
    output: tuple[float, int] | None, six: bool | None,
) -> Nested:  # fmt: skip
    """What becomes of integer sums, a nested list of them for each row (row = output channel).

    products    per row: sum of w * (q - zero point)        six     None: no activation; False: relu; True: relu6
    output      None: float32 results                       output  (scale, zero point): int8 results
    """
    result = []
    for k, sums in enumerate(products):
        unit = float32(input_scale * scales[k])
        shift_by = 0
        if bias is not None:
            shift_by = min(max(round_half_even(Fraction(bias[k] / unit)), -(2**30)), 2**30)
        accumulators = each(lambda a, b=shift_by: a + b, sums)
        if output is None:
            values = each(lambda a, m=unit: float32(float32(float(a)) * m), accumulators)
            result.append(values if six is None else relu(values, six))
            continue
        scale, zero_point = output
        m0, shift = multiplier(Fraction(unit / scale))
        low = -128 if six is None else zero_point
        high = clamp8(round_half_even(Fraction(6.0 / scale)) + zero_point) if six else 127
        result.append(each(lambda a, m=m0, s=shift, z=zero_point, lo=low, hi=high:
                           min(max(requantize(a, m, s, z), lo), hi), accumulators))  # fmt: skip
    return result
