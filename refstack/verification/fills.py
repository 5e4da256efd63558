"""Arrays for a problem, from a word and a seed.

    integer     every sum of products, in every order, is an integer below 2**24, so float32 has only one answer
    impulse     one power of two a filter: the output is one input times that power, bit for bit
    the others  real numbers of a certain kind, held to the error bound
    special     NaN, infinities, -0, subnormal and huge activations
For int8, whose every answer is exact: integer (all values), extremes (the ends of the range, where 16 bits overflow),
largest (the largest sums, where float32 is not exact), ties (small sums on coarse grids, so that halves are rounded).
Integers show wrong taps, tails, strides, groups and double counting; impulses show inputs that were rounded; reals show
thresholds and what a small range hides.
Next: harness.py
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from refstack import ops
from refstack.formats import FORMATS, INTEGER, Array, Bsr, Csr, Int8, Quant, Ternary8, Weight
from refstack.graph import Node
from refstack.kernels import Case
from refstack.ops import Op, Shape
from refstack.verification.cases import Choose, Problem

Draw = Callable[[np.random.Generator, Shape], Array]


def _cancelling(rng: np.random.Generator, shape: Shape) -> Array:
    """Neighbours that add up to nothing."""
    x = rng.standard_normal(math.prod(shape))
    x[1::2] = -x[: x.size // 2 * 2 : 2]
    return x.reshape(shape)


def _powers(rng: np.random.Generator, shape: Shape) -> Array:
    """Every exponent from -30 to 30 as likely as any other."""
    return rng.choice((-1.0, 1.0), shape) * np.exp2(rng.uniform(-30, 30, shape))


REAL: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "rectified": lambda rng, shape: np.maximum(rng.standard_normal(shape), 0),
    "positive": lambda rng, shape: rng.random(shape),
    "lognormal": lambda rng, shape: rng.choice((-1.0, 1.0), shape) * rng.lognormal(0, 3, shape),
    "powers": _powers,
    "cancelling": _cancelling,
    "constant": lambda rng, shape: np.full(shape, rng.uniform(0.1, 1)),
}

HALF_RANGE = (-65504, 65504)
BLOCKS = ((16, 1), (4, 1), (2, 3))
INDEPENDENT = ("normal",)
"""Fills on which the root mean square error is held against the textbook loop's (compare.rms_check)."""

WEIGHTED = (ops.Conv2d, ops.Linear)
SELECTING = ("relu", "add", "maxpool", "concat", "flatten", "reorder")
"""Layers that give special values back unharmed or by IEEE's rules."""


def fills(op: str, format: str) -> tuple[str, ...]:
    """The words that make sense for an op and a format, exact ones first."""
    weighted = op in ("conv2d", "linear")
    if format in INTEGER:
        return ("integer", "extremes", "largest", "ties") if weighted else ("integer", "extremes")
    if weighted:
        return ("integer", "impulse", *REAL, "special")
    if op == "quantize":
        return ("integer", "ties", *REAL)
    return ("integer", *REAL, "special") if op in SELECTING else ("integer", *REAL)


def is_exact(problem: Problem) -> bool:
    """Whether float32 has only one answer to this problem, whatever the order of summation."""
    return isinstance(problem.case.op, WEIGHTED) and problem.fill in ("integer", "impulse")


def problem_of(choose: Choose, op: Op, inputs: tuple[Shape, ...], format: str, fill: str | None = None) -> Problem:
    """Draw all that is left: density, bias, output dtype, fill (unless it is given), seed."""
    weighted = isinstance(op, WEIGHTED)
    density = choose.among((1.0, 0.5, 0.1, 0.0)) if weighted and FORMATS[format].sparse else 1.0
    bias = choose.integer(0, 3) != 3
    narrow = format in INTEGER and (not weighted or choose.integer(0, 1) == 1)
    output = "int8" if narrow or isinstance(op, ops.Quantize) else "float32"
    fill = fill or choose.among(fills(op.name, format))
    case = Case(op, format, inputs, density, output, bias if weighted or isinstance(op, ops.BatchNorm) else True)
    return Problem(case, fill, choose.integer(0, 2**16))


def _rng(problem: Problem, what: str, change: int = 0) -> np.random.Generator:
    return np.random.default_rng((problem.seed, change, zlib.crc32(f"{problem.fill} {what}".encode())))


def most(problem: Problem) -> int:
    """Largest |weight| and |input| of an integer fill: terms * most**2 <= 2**23, the bias takes 2**20 more."""
    wanted = problem.case.op.weight_shape(*problem.case.inputs)
    terms = wanted[1] if wanted else math.prod(getattr(problem.case.op, "kernel", (1,)))
    if isinstance(problem.case.op, ops.GlobalAvgPool):
        terms = math.prod(problem.case.inputs[0][2:])
    return math.isqrt(2**23 // terms)


def node_of(problem: Problem) -> Node:
    """The layer with its weights."""
    case = problem.case
    names = tuple(f"x{i}" for i in range(len(case.inputs)))
    if isinstance(case.op, WEIGHTED):
        weight = _weight(problem)
        return Node("y", case.op, names, weight, _bias(problem, weight) if case.bias else None)
    if isinstance(case.op, ops.BatchNorm):
        rng, c = _rng(problem, "norm"), case.inputs[0][1]
        gamma, beta, mean = (rng.standard_normal(c).astype(np.float32) for _ in range(3))
        var = rng.lognormal(0, 1, c).astype(np.float32)
        var[rng.random(c) < 0.1] = 0
        weight = FORMATS["dense"].encode(gamma[:, None])
        return Node("y", case.op, names, weight, beta if case.bias else None, mean, var)
    return Node("y", case.op, names)


def inputs_of(problem: Problem, change: int = 0) -> tuple[Array, ...]:
    """The layer's inputs; another `change` is another draw of the same kind."""
    return tuple(_input(problem, i, shape, change) for i, shape in enumerate(problem.case.inputs))


def _input(problem: Problem, index: int, shape: Shape, change: int) -> Array:
    rng, case = _rng(problem, f"input {index}", change), problem.case
    if case.format in INTEGER:
        values = {"extremes": (-128, -127, 0, 127), "largest": (126, 127), "ties": range(-4, 5)}
        return rng.choice(np.array(values.get(problem.fill, range(-128, 128)), np.int8), shape)
    if isinstance(case.op, ops.Quantize) and problem.fill == "ties":
        return _ties(rng, shape, case.op.scale)
    if problem.fill == "integer":
        high = most(problem)
        return rng.integers(-high, high + 1, shape).astype(np.float32)
    draw = REAL.get(problem.fill, REAL["normal"])
    x = draw(rng, shape).astype(np.float32)
    if isinstance(case.op, ops.Softmax | ops.Quantize | ops.ReLU):
        x *= np.float32(rng.choice((1, 10)))
    return _with_specials(rng, x) if problem.fill == "special" else x


def _ties(rng: np.random.Generator, shape: Shape, scale: float) -> Array:
    """Half-way between two steps of a grid, as near as float32 comes to it, and the float32 numbers on either side."""
    x = ((rng.integers(-260, 260, shape) + 0.5) * scale).astype(np.float32)
    sides = [np.nextafter(x, np.float32(-np.inf)), x, np.nextafter(x, np.float32(np.inf))]
    return np.asarray(np.choose(rng.integers(0, 3, shape), sides))


def _with_specials(rng: np.random.Generator, x: Array) -> Array:
    """Special values at both ends and in between."""
    values = np.array((np.nan, np.inf, -np.inf, -0.0, 1e-40, np.finfo(np.float32).max / 2), np.float32)
    flat = x.reshape(-1)
    places = rng.integers(0, flat.size, 1 + flat.size // 16)
    places[0], places[-1] = rng.choice((0, flat.size - 1)), rng.choice((0, flat.size - 1))
    flat[places] = rng.choice(values, places.size)
    return x


def _weight(problem: Problem) -> Weight:
    case, rng = problem.case, _rng(problem, "weight")
    shape = case.op.weight_shape(*case.inputs)
    assert shape is not None
    matrix = _matrix(problem, rng, shape)
    if case.format in INTEGER:
        weight8 = _int8(problem, rng, matrix)
        return weight8 if case.format == "int8" else _ternary8(rng, weight8)
    if case.format == "half":
        matrix = np.clip(matrix, *HALF_RANGE)
    if case.format == "bsr":
        return Bsr.encode(matrix, BLOCKS[int(rng.integers(len(BLOCKS)))])
    weight = FORMATS[case.format].encode(matrix.astype(np.float32))
    if isinstance(weight, Csr) and weight.nnz and rng.random() < 0.25:
        weight.values[rng.integers(weight.nnz)] = 0  # a stored zero is allowed
    return weight


def _matrix(problem: Problem, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    case, (rows, cols) = problem.case, shape
    if problem.fill == "impulse":
        places = np.where(rng.random(rows) < 0.25, cols - 1, rng.integers(0, cols, rows))
        powers = rng.choice((2.0, -0.5), rows) if case.format == "ternary" else _impulses(rng, rows)
        impulses = np.zeros(shape)
        impulses[np.arange(rows), places] = powers
        return impulses
    high = most(problem)
    draw = REAL.get(problem.fill, REAL["normal"])
    matrix = rng.integers(-high, high + 1, shape) if problem.fill == "integer" else draw(rng, shape)
    if case.format == "ternary":
        positive, negative = rng.choice(np.abs(matrix[matrix != 0]), 2) if matrix.any() else (1, 1)
        matrix = np.where(rng.random(shape) < 0.3, 0, np.where(matrix > 0, positive, -negative))
    return matrix * _mask(problem, rng, shape)


def _impulses(rng: np.random.Generator, rows: int) -> Array:
    return rng.choice((-1.0, 1.0), rows) * np.exp2(rng.integers(-8, 9, rows))


def _mask(problem: Problem, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Entries kept, with the patterns that break loops: an empty row, the last entry alone."""
    density = problem.case.density
    mask = rng.random(shape) < density
    if problem.case.format == "bsr":  # most blocks of many weights would hold one
        mask &= np.repeat(rng.random((-(-shape[0] // 4), shape[1])) < max(density, 0.5), 4, axis=0)[: shape[0]]
    if density < 1 and rng.random() < 0.5:
        mask[rng.integers(shape[0])] = False
    if 0 < density < 1 and rng.random() < 0.5:
        mask[-1, -1] = True
    return mask


def _ternary8(rng: np.random.Generator, weight: Int8) -> Weight:
    """The signs of an int8 weight, some of them gone, with a positive and a negative value for every row: its largest
    one or a smaller one."""
    values = weight.values.astype(np.int64)
    largest = np.maximum(1, np.abs(values).max(axis=1, keepdims=True, initial=0))
    above, below = (np.where(rng.random(largest.shape) < 0.5, largest, rng.integers(1, largest + 1)) for _ in range(2))
    kept = np.where(rng.random(values.shape) < 0.8, values, 0)
    ternary = np.where(kept > 0, above, np.where(kept < 0, -below, 0)).astype(np.int8)
    return Ternary8(ternary, weight.scale, weight.input, weight.output)


def _int8(problem: Problem, rng: np.random.Generator, matrix: Array) -> Int8:
    """Random grids. The output's is about as wide as the sums, so that its ends are reached, and a power of two coarser
    than the sums' (of all rows, for ties)."""
    fill = problem.fill
    points = {"largest": (-128,), "ties": (0, 3)}.get(fill, (0, -128, 127, int(rng.integers(-128, 128))))
    weight = Int8.encode(
        matrix.astype(np.float32), Quant(float(np.float32(rng.lognormal(-4, 1))), int(rng.choice(points)))
    )
    if fill in ("extremes", "largest"):
        signs = rng.choice(np.array((-127, 127), np.int8), matrix.shape if fill == "extremes" else (matrix.shape[0], 1))
        weight = replace(weight, values=np.broadcast_to(signs, matrix.shape).copy())
    if fill == "ties":
        values = rng.integers(-2, 3, matrix.shape, np.int8)
        weight = replace(weight, values=values, scale=np.full_like(weight.scale, weight.scale.max()))
    if problem.case.output == "float32":
        return weight
    spread = float(np.abs(weight.values).mean()) * 75 * math.sqrt(matrix.shape[1])
    coarser = 2 if fill == "ties" else round(math.log2(max(2, spread / 50)))
    return replace(weight, output=Quant(float(weight.unit.max()) * 2.0**coarser, int(rng.choice((0, -128, 127, 11)))))


def _bias(problem: Problem, weight: Weight) -> Array:
    rng, rows = _rng(problem, "bias"), weight.shape[0]
    if problem.fill == "impulse":
        return np.zeros(rows, np.float32)
    if isinstance(weight, Int8):
        return (rng.standard_normal(rows) * weight.unit * (3 if problem.fill == "ties" else 1000)).astype(np.float32)
    if problem.fill == "integer":
        return rng.integers(-(2**20), 2**20 + 1, rows).astype(np.float32)
    return REAL.get(problem.fill, REAL["normal"])(rng, (rows,)).astype(np.float32)
