"""Negative controls: wrong kernels of many kinds, each of which the harness must catch, and a right one it must pass.

All rest on one convolution of their own (gather by index, one einsum), so a saboteur is a line or two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided

from refstack.backends import Step
from refstack.formats import Array, activate
from refstack.kernels import Kernel
from refstack.ops import Conv2d


def _conv(step: Step, op: Conv2d | None = None, x: Array | None = None, weight: Array | None = None) -> Array:
    """sum over c, r, s by gathering, groups by a block-diagonal weight; what is None is the step's own."""
    own = step.case.op
    assert isinstance(own, Conv2d) and step.node.weight is not None
    op, x = op or own, step.inputs[0] if x is None else x
    matrix = step.node.weight.decode() if weight is None else weight
    (k, p, q), (c, h, w) = step.case.shape[1:], x.shape[1:]
    g, (r, s) = own.groups, own.kernel
    dense = np.zeros((g, k // g, g, c // g, r, s), np.float32)
    dense[range(g), :, range(g)] = matrix.reshape(g, k // g, c // g, r, s)
    i = np.arange(p)[:, None] * op.stride[0] + np.arange(r) * op.dilation[0] - op.padding[0]
    j = np.arange(q)[:, None] * op.stride[1] + np.arange(s) * op.dilation[1] - op.padding[1]
    inside = ((i >= 0) & (i < h))[:, :, None, None] & ((j >= 0) & (j < w))
    taps = np.where(inside, x[:, :, i.clip(0, h - 1)[:, :, None, None], j.clip(0, w - 1)], 0)  # n c p r q s
    columns = taps.transpose(0, 2, 4, 1, 3, 5).reshape(-1, c * r * s)
    y = columns @ dense.reshape(k, -1).T
    return np.ascontiguousarray(y.reshape(-1, p, q, k).transpose(0, 3, 1, 2))


def _finish(step: Step, y: Array, bias_times: int = 1) -> None:
    assert isinstance(step.case.op, Conv2d)
    if step.node.bias is not None:
        y = y + bias_times * step.node.bias[:, None, None]
    step.output[...] = activate(y, step.case.op.activation)


def honest(step: Step) -> None:
    """Right: the positive control."""
    _finish(step, _conv(step))


def writes_nothing(step: Step) -> None:
    """Leaves the output as it was."""


def constant(step: Step) -> None:
    """The same number everywhere."""
    step.output[...] = 1


def stale() -> Callable[[Step], None]:
    """Remembers its answer by the address of its input."""
    answers: dict[int, Array] = {}

    def run(step: Step) -> None:
        address = step.inputs[0].ctypes.data
        if address not in answers:
            honest(step)
            answers[address] = step.output.copy()
        step.output[...] = answers[address]

    return run


def padding_off_by_one(step: Step) -> None:
    """Reads one row too far down."""
    op = step.case.op
    assert isinstance(op, Conv2d)
    top, left, bottom, right = op.padding
    _finish(step, _conv(step, replace(op, padding=(max(0, top - 1), left, bottom, right))))


def last_tap_dropped(step: Step) -> None:
    """Stops one short of the end of the filter."""
    assert step.node.weight is not None
    weight = step.node.weight.decode()
    weight[:, -1] = 0
    _finish(step, _conv(step, weight=weight))


def strides_swapped(step: Step) -> None:
    """Moves down by the stride across."""
    op = step.case.op
    assert isinstance(op, Conv2d)
    _finish(step, _conv(step, replace(op, stride=op.stride[::-1])))


def tail_unwritten(step: Step) -> None:
    """Writes filters in fours and forgets the rest."""
    kept = step.output.copy()
    honest(step)
    whole = step.output.shape[1] // 4 * 4
    step.output[:, whole:] = kept[:, whole:]


def bias_twice(step: Step) -> None:
    """Adds the bias two times."""
    _finish(step, _conv(step), bias_times=2)


def _tf32(x: Array) -> Array:
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def inputs_rounded(step: Step) -> None:
    """Rounds its input to 10 bits of mantissa, as TF32 units do."""
    _finish(step, _conv(step, x=_tf32(step.inputs[0])))


def half_accumulator(step: Step) -> None:
    """Keeps the sum in 16 bits."""
    with np.errstate(over="ignore"):
        _finish(step, _conv(step).astype(np.float16).astype(np.float32))


def writes_input(step: Step) -> None:
    """Clears a pixel of its input when it is done."""
    honest(step)
    step.inputs[0].flat[-1] += 1


def accumulates(step: Step) -> None:
    """Adds to what the output held."""
    held = step.output.copy()
    honest(step)
    step.output[...] += held * np.float32(1e-30)


def overruns(step: Step) -> None:
    """Writes one number past the end of the output."""
    honest(step)
    as_strided(step.output.reshape(-1), (step.output.size + 1,))[-1] = 0


def reads_beyond(step: Step) -> None:
    """Reads one number past the end of its input, and makes nothing of it."""
    honest(step)
    x = step.inputs[0]
    step.output.flat[0] += 0 * np.nan_to_num(as_strided(x.reshape(-1), (x.size + 1,))[-1])


def nondeterministic() -> Callable[[Step], None]:
    """Another order of summation at every call."""
    calls = itertools.count(1)

    def run(step: Step) -> None:
        honest(step)
        step.output[...] *= np.float32(1 + next(calls) * 2**-23)

    return run


def row(run: Callable[[Step], None], name: str) -> Kernel:
    """A dense convolution that the numpy backend runs. Groups multiply each other's zeros, so NaN spreads."""
    return Kernel("conv2d", "dense", "numpy", name, run, blocks=(4,), nonfinite="spreads")


def honest_row() -> Kernel:
    """The positive control."""
    return row(honest, "honest")


@dataclass(frozen=True)
class Saboteur:
    """A wrong kernel, and the verdict that is meant for it: FAIL, or CRASH where guard pages stop it."""

    row: Kernel
    caught: str = "FAIL"

    @property
    def name(self) -> str:
        """The row's variant."""
        return self.row.variant


def saboteurs() -> tuple[Saboteur, ...]:
    """Fresh ones of all kinds that must be caught."""
    plain = (
        writes_nothing, constant, padding_off_by_one, last_tap_dropped, strides_swapped, tail_unwritten, bias_twice,
        inputs_rounded, half_accumulator, accumulates,
    )  # fmt: skip
    guarded = (writes_input, overruns, reads_beyond)
    made = (("stale", stale()), ("nondeterministic", nondeterministic()))
    return (
        *(Saboteur(row(run, run.__name__)) for run in plain),
        *(Saboteur(row(run, name)) for name, run in made),
        *(Saboteur(row(run, run.__name__), "CRASH") for run in guarded),
    )
