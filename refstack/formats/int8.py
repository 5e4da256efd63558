"""int8: weights and activations in 8 bits, integer accumulation, one rounding rule.

    x ~ input.scale * (q - input.zero_point)          w[k] ~ scale[k] * values[k]
    acc[k]  = sum of values[k] * (q - input.zero_point) + round(bias[k] / m[k]),   m[k] = input.scale * scale[k]
    float32 output:  y[k] = float32(acc[k]) * m[k]                                           (output is None)
    int8 output:     y[k] = clamp(round(acc[k] * m[k] / output.scale) + output.zero_point)   by `requantize`
acc is exact in int32, so every backend gives the same bits.

Layout      values   int8 (rows, cols) in -127..127         scale   float32 (rows,)       bytes  rows*cols + 4*rows
Source      Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
            Inference, CVPR 2018. The rounding is single and half up, where gemmlowp rounds twice (docs/numerics).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from refstack.errors import FormatError
from refstack.formats.base import Array, Weight, activate, as_matrix, require_dtype, require_finite
from refstack.ops import Activation

MAX_COLS = (2**31 - 1) // (127 * 255) // 2  # half of what int32 holds, so that the bias fits beside the products


@dataclass(frozen=True)
class Quant:
    """An affine int8 grid: x ~ scale * (q - zero_point)."""

    scale: float
    zero_point: int

    def quantize(self, x: Array) -> Array:
        """q = clamp(round_half_even(x / scale) + zero_point), in float64.   float (any) -> int8 (same)"""
        return np.clip(np.rint(x.astype(np.float64) / self.scale) + self.zero_point, -128, 127).astype(np.int8)


def multiplier(real: float) -> tuple[int, int]:
    """real = M0 * 2**-shift with M0 in [2**30, 2**31) and shift in 1..62: the fixed-point form of a scale."""
    if not real < 2.0**30 * (1 - 2.0**-32):  # from there on the shift would be below 1; infinity included
        raise FormatError(f"int8: output scale is 2**30 times finer than the accumulator (ratio {real})")
    mantissa, exponent = math.frexp(real)  # real = mantissa * 2**exponent, mantissa in [0.5, 1)
    m0, shift = round(mantissa * 2**31), 31 - exponent
    if m0 == 2**31:
        m0, shift = 2**30, shift - 1
    return (m0, shift) if shift <= 62 else (0, 62)  # below 2**-31 every accumulator rounds to 0


def requantize(acc: Array, m0: Array, shift: Array, zero_point: int) -> Array:
    """clamp(((acc * M0 + 2**(shift-1)) >> shift) + zero_point): one rounding, half up.

    Args        acc  int64 (rows, m) holding int32 values      m0, shift  int64 (rows, 1)
    Returns     int8 (rows, m)
    """
    rounded = (acc * m0 + (np.int64(1) << (shift - 1))) >> shift
    return np.clip(rounded + zero_point, -128, 127).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Int8(Weight):
    """Per-row scales, int32 accumulators, the input's grid and, if the output is int8 too, the output's."""

    format: ClassVar[str] = "int8"
    values: Array
    scale: Array
    input: Quant
    output: Quant | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @classmethod
    def encode(cls, matrix: Array, input: Quant = Quant(1.0, 0), output: Quant | None = None) -> Int8:
        """scale[k] = max|w[k]| / 127,  values = round_half_even(w / scale): symmetric, a scale for every row."""
        matrix = as_matrix(matrix, cls.format)
        largest = np.abs(matrix).max(axis=1, initial=0)
        # the smallest normal number keeps rows of (almost) nothing from dividing by zero
        scale = np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny).astype(np.float32)
        values = np.clip(np.rint(matrix / scale[:, None].astype(np.float64)), -127, 127).astype(np.int8)
        weight = cls(values, scale, input, output)
        weight.check()
        return weight

    def decode(self) -> Array:
        return self.values * self.scale[:, None]

    @property
    def zero(self) -> float:
        return self.input.zero_point

    @property
    def unit(self) -> Array:
        """m[k], what one step of the accumulator is worth: float32 (rows,)."""
        return (np.float64(self.input.scale) * self.scale).astype(np.float32)

    def integer_bias(self, bias: Array | None) -> Array:
        """round_half_even(bias / m) as int32 (rows,), saturated at +-2**30."""
        if bias is None:
            return np.zeros(self.shape[0], np.int32)
        return np.clip(np.rint(bias.astype(np.float64) / self.unit), -(2**30), 2**30).astype(np.int32)

    def multipliers(self) -> tuple[Array, Array]:
        """(M0, shift) of m[k] / output.scale for every row: int64 (rows,) each."""
        assert self.output is not None
        pairs = [multiplier(float(m) / self.output.scale) for m in self.unit.astype(np.float64)]
        m0, shift = np.array(pairs, np.int64).reshape(-1, 2).T
        return m0, shift

    def limits(self, activation: Activation | None) -> tuple[int, int]:
        """(low, high) of the int8 output: activations are clamps on the output's grid."""
        assert self.output is not None
        low = max(-128, self.output.zero_point) if activation else -128
        high = int(self.output.quantize(np.array(6.0))) if activation == "relu6" else 127
        return low, high

    def matmul(self, columns: Array) -> Array:
        """values @ (columns - zero_point): exact, since every sum stays below 2**53 (and, by check, 2**31)."""
        return (self.values.astype(np.float64) @ (columns.astype(np.float64) - self.zero)).astype(np.int64)

    def affine(self, columns: Array, bias: Array | None, activation: Activation | None = None) -> Array:
        acc = self.matmul(columns) + self.integer_bias(bias)[:, None]
        if self.output is None:
            return activate(acc.astype(np.float32) * self.unit[:, None], activation)
        m0, shift = self.multipliers()
        y = requantize(acc, m0[:, None], shift[:, None], self.output.zero_point)
        return np.clip(y, *np.array(self.limits(activation), np.int8))

    def rows(self, start: int, stop: int) -> Int8:
        return replace(self, values=self.values[start:stop], scale=self.scale[start:stop])

    def check(self) -> None:
        require_dtype(self.values, np.int8, 2, "int8.values")
        require_dtype(self.scale, np.float32, 1, "int8.scale")
        if self.scale.size != self.shape[0]:
            raise FormatError(f"int8: {self.scale.size} scales for {self.shape[0]} rows")
        if self.shape[1] > MAX_COLS:
            raise FormatError(f"int8: {self.shape[1]} columns may overflow int32, at most {MAX_COLS} are allowed")
        if (self.values == -128).any():
            raise FormatError("int8.values: -128 is not used, values are -127 to 127")
        require_finite(self.scale, "int8.scale")
        if (self.scale <= 0).any():
            raise FormatError(f"int8.scale: row {int(np.argmax(self.scale <= 0))} has a scale that is not positive")
        for name, quant in (("input", self.input), ("output", self.output)):
            if quant and not (0 < quant.scale < math.inf and -128 <= quant.zero_point <= 127):
                raise FormatError(f"int8.{name}: {quant} needs a positive scale and a zero point in -128..127")
        with np.errstate(over="ignore", under="ignore"):
            bad = ~((self.unit > 0) & np.isfinite(self.unit))
        if bad.any():
            row = int(np.argmax(bad))
            raise FormatError(
                f"int8: input.scale {self.input.scale} * scale {self.scale[row]} of row {row} is no float32"
            )
        if self.output:
            self.multipliers()  # raises where the output's grid is finer than a multiplier can be
