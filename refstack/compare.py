"""The numeric contract: what counts as correct, for one layer and for a whole plan.

A layer's output is right when it is bitwise the reference's (integer formats, and layers that round at most once), or
when every element is inside its a-priori bound:

    |y - R| <= gamma(n + c) * S * (1 + 2**-20) + n * 2**-150,       gamma(n) = n*u / (1 - n*u),   u = 2**-24

    R  the reference in float64 on the same inputs        S  the same on absolute values, |W| |x| + |b|
    n  non-zero products of that output, plus the bias    c  roundings that a format adds (ternary: 2)

Any order of summation, any number of lanes, FMA or not, stays inside; nothing here is tuned.
Source      Higham: Accuracy and Stability of Numerical Algorithms, 2002, section 3.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from refstack import ops
from refstack.backends import Step, backend
from refstack.formats import Array, Csr, Dense, Int8
from refstack.graph import Node
from refstack.kernels import Reorder, from_nchw, to_nchw
from refstack.planner import Plan
from refstack.reference import layer, run

U = 2.0**-24
TINY = 2.0**-149
EXP_ULPS = 4.0
"""Error of float32 exp that softmax may rest on, in units in the last place (libm 1, NumPy's vectors 2.6)."""
ONE_ROUNDING = (ops.ReLU, ops.MaxPool2d, ops.Concat, ops.Flatten, ops.Add, ops.Quantize, Reorder)


def gamma(n: Array | float) -> Array:
    """n*u / (1 - n*u): the relative error of n roundings."""
    return np.asarray(n * U / (1 - n * U))


@dataclass(frozen=True, eq=False)
class Bound:
    """R, the largest error allowed and S, element by element. `exact` asks for equal bits (-0 counts as 0)."""

    value: Array
    limit: Array
    scale: Array
    exact: bool


@dataclass(frozen=True)
class Check:
    """The verdict on one layer.

    worst       largest |error| / limit over the compared elements; inf for a wrong exact or non-finite value
    compared    elements that were compared; `skipped` are those whose sum may overflow in some order
    where       position of the worst element
    """

    name: str
    kernel: str
    case: str
    compared: int
    skipped: int
    worst: float
    where: tuple[int, ...] = ()
    got: float = 0.0
    wanted: float = 0.0
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Something was compared, nothing is outside its bound."""
        return self.compared > 0 and self.worst <= 1 and not self.problem

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        text = f"{verdict} {self.name} {self.kernel} {self.case}: error {self.worst:.3g} of the bound"
        if self.passed:
            return text
        return f"{text} at {self.where}, got {self.got!r}, wanted {self.wanted!r}. {self.problem}".rstrip()


def bound(node: Node, inputs: tuple[Array, ...]) -> Bound:
    """What `node` may give for these inputs (nchw, as the kernel saw them)."""
    if isinstance(node.op, Reorder):
        return Bound(inputs[0], np.zeros(()), np.zeros(()), exact=True)
    if isinstance(node.op, ONE_ROUNDING) or isinstance(node.weight, Int8):
        return Bound(layer(node, *inputs), np.zeros(()), np.zeros(()), exact=True)
    x = inputs[0].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        limit, scale = _limit(node, x)
        return Bound(layer(node, x), limit, scale, exact=False)


def _limit(node: Node, x: Array) -> tuple[Array, Array]:
    """The bound of docs/numerics for each layer that rounds, and S, the same sum on absolute values."""
    op = node.op
    if isinstance(op, ops.Conv2d | ops.Linear):
        return _sum_of_products(node, x)
    if isinstance(op, ops.BatchNorm):
        assert node.weight is not None and node.var is not None and node.mean is not None
        column = (-1, 1, 1)
        a = np.abs(node.weight.decode()[:, 0]) / np.sqrt(node.var.astype(np.float64) + op.eps)
        beta = np.zeros_like(a) if node.bias is None else np.abs(node.bias)
        a, mean, beta = (v.reshape(column) for v in (a, np.abs(node.mean), beta))
        s = a * np.abs(x) + a * mean + beta
        return gamma(8) * s + 8 * TINY, s
    if isinstance(op, ops.AvgPool2d | ops.GlobalAvgPool):
        count = math.prod(op.kernel if isinstance(op, ops.AvgPool2d) else x.shape[2:])
        s = layer(node, np.abs(x))
        return gamma(count + 1) * s + TINY, s * count
    if isinstance(op, ops.Softmax):
        y, d = layer(node, x), np.abs(x - x.max(axis=1, keepdims=True))
        terms = d + (y * d).sum(axis=1, keepdims=True) + x.shape[1] + 4 * EXP_ULPS + 2
        return y * U * terms + TINY, y
    raise TypeError(f"{node.name}: no error bound is written down for {op.name}")


def _sum_of_products(node: Node, x: Array) -> tuple[Array, Array]:
    """gamma(n + c) * S * (1 + 2**-20) + n * 2**-150, and S."""
    assert node.weight is not None
    matrix = node.weight.decode()
    # a zero that is not stored annihilates even infinity; on finite inputs the two formats agree and dense is faster
    stored = Dense if isinstance(node.weight, Dense) or np.isfinite(x).all() else Csr
    linear_op = replace(node.op, activation=None)  # type: ignore[call-arg]
    bias = node.bias if node.bias is not None else np.zeros(matrix.shape[0], np.float32)
    absolute = replace(node, op=linear_op, weight=stored.encode(np.abs(matrix)), bias=np.abs(bias))
    pattern = replace(node, op=linear_op, weight=stored.encode(matrix != 0), bias=(bias != 0).astype(np.float32))
    s, n = layer(absolute, np.abs(x)), layer(pattern, (x != 0).astype(np.float64))
    return gamma(n + node.weight.roundings) * s * (1 + 2.0**-20) + n * 2.0**-150, s


def check(node: Node, inputs: tuple[Array, ...], output: Array, kernel: str = "", case: str = "") -> Check:
    """Hold one output to its bound. NaN passes only where the reference has NaN."""
    wanted = bound(node, inputs)
    shape, r = wanted.value.shape, wanted.value
    if output.shape != shape or (wanted.exact and output.dtype != r.dtype):
        problem = f"output is {output.dtype} {output.shape}, wanted {r.dtype} {shape}"
        return Check(node.name, kernel, case, 0, 0, np.inf, problem=problem)
    if output.size == 0:
        return Check(node.name, kernel, case, 0, 0, 0.0, problem="the output is empty, nothing was compared")
    y = output.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        limit = np.broadcast_to(wanted.limit, shape)
        s = np.broadcast_to(wanted.scale, shape)
        unsure = np.isfinite(s) & (s * (1 + 2.0**-10) >= np.finfo(np.float32).max)
        same = (y == r) | (np.isnan(y) & np.isnan(r))
        ratio = np.where(same, 0.0, np.where(limit > 0, np.abs(y - r) / limit, np.inf))
    ratio[np.isnan(ratio)] = np.inf  # NaN on one side only
    ratio[unsure & ~same] = 0
    worst = np.unravel_index(int(np.argmax(ratio)), shape)
    where = tuple(int(i) for i in worst)
    skipped = int((unsure & ~same).sum())
    return Check(
        node.name, kernel, case, output.size - skipped, skipped,
        float(ratio[worst]), where, float(y[worst]), float(r[worst]),
    )  # fmt: skip


def check_step(step: Step, threads: int) -> Check:
    """Run one kernel on the values that stand in the arena and hold it to its bound.

    Output and scratch are filled with 0xFF (NaN, -1) first, so what is not written shows; channels that a blocked
    layout adds must come out as zeros.
    """
    source, target = step.kernel.layouts
    if isinstance(step.case.op, Reorder):
        source, target = step.case.op.source, step.case.op.target
    inputs = tuple(np.array(to_nchw(x, source, shape)) for x, shape in zip(step.inputs, step.case.inputs, strict=True))
    for written in (step.output, step.scratch):
        written.view(np.uint8).reshape(-1)[...] = 0xFF
    backend(step.kernel.backend).lower((step,), threads)()
    output = to_nchw(step.output, target, step.case.shape)
    result = check(step.node, inputs, output, step.kernel.name, step.case.word)
    if not np.array_equal(step.output, from_nchw(output, target), equal_nan=step.output.dtype != np.int8):
        return replace(result, worst=np.inf, problem=f"the channels that {target} adds are not zero")
    return result


@dataclass(frozen=True, eq=False)
class PlanCheck:
    """The verdict on a plan.

    layers          a Check for every step, each on the inputs that the plan itself gave it
    repeatable      the whole plan as one call gives the bits that the steps gave one by one
    logit_error     max |y - float64 reference| over the logits; `logit_scale` the largest logit
    """

    layers: tuple[Check, ...]
    repeatable: bool
    logit_error: float
    logit_scale: float
    output: Array = field(repr=False)

    @property
    def worst(self) -> float:
        """Largest error in units of its bound, over all layers."""
        return max(layer.worst for layer in self.layers)

    @property
    def passed(self) -> bool:
        """Every layer inside its bound, and the whole run repeats it."""
        return bool(self.layers) and self.repeatable and all(layer.passed for layer in self.layers)

    @property
    def problem(self) -> str:
        """The first failure in words, or nothing."""
        failed = [str(layer) for layer in self.layers if not layer.passed]
        if failed:
            return failed[0]
        return "" if self.repeatable else "the plan run as a whole differs from its steps run one by one"


def check_plan(plan: Plan, x: Array, oracle: Array | None = None) -> PlanCheck:
    """Hold every step of a plan to its bound, then the plan as a whole to its steps.

    Args        x       float32 (batch, c, h, w)
                oracle  the float64 reference's output for x if it is known already
    """
    with plan.lock:
        plan.x[...] = x
        layers = tuple(check_step(step, plan.threads) for step in plan.steps)
        stepwise = plan.y.copy()
    whole = plan.run(x)
    if oracle is None:
        oracle = run(plan.graph, x.astype(np.float64))
    error = np.abs(whole - oracle).max()
    repeatable = np.array_equal(stepwise, whole)
    return PlanCheck(layers, repeatable, float(error), float(np.abs(oracle).max()), whole)
