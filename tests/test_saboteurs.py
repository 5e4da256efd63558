"""The checker must be able to fail: wrong kernels of every op are caught, some by the check that is meant for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from refstack.backends import Step, backend
from refstack.formats import Csr, Int8, Ternary
from refstack.kernels import Kernel, from_nchw
from refstack.reference import layer
from refstack.reference.window import windows
from refstack.verification.saboteurs import honest_row, row, saboteurs
from refstack.verification.verdicts import verdict

REASONS = {
    "writes_input": "input 0 was written to",
    "overruns": "bytes beside output were written to",
}
SEEN_BY_GUARD_PAGES = ("reads_beyond",)
"""Saboteurs that nothing but guard pages can catch."""


def assert_caught(saboteur: Kernel, seed: int, reason: str = "") -> None:
    found = verdict(saboteur, examples=100, seed=seed)
    assert found.state == "FAIL", f"{saboteur.name} got away with {found}"
    assert found.case, "a failure names the problem"
    assert re.search(reason, found.reason), f"caught for another reason: {found.reason}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [each.name for each in saboteurs() if each.name not in SEEN_BY_GUARD_PAGES])
def test_saboteur_is_caught(name: str, seed: int) -> None:
    fresh = next(each for each in saboteurs() if each.name == name)  # some remember earlier calls
    assert_caught(fresh.row, seed, REASONS.get(name, ""))


def test_honest_kernel_passes() -> None:
    """Another convolution than the reference's, in another order: the positive control."""
    found = verdict(honest_row(), examples=60, seed=0)
    assert (found.state, found.reason) == ("PASS", "")
    assert 0 < found.worst <= 1


def wrong(change: Callable[[Step], Step]) -> Callable[[Step], None]:
    """A kernel that computes a changed step by the reference."""

    def run(step: Step) -> None:
        changed = change(step)
        step.output[...] = layer(changed.node, *changed.inputs)

    return run


def with_weight(change: Callable[..., object]) -> Callable[[Step], None]:
    """A kernel that misreads its weight."""
    return wrong(lambda step: replace(step, node=replace(step.node, weight=change(step.node.weight))))


def with_op(**changes: object) -> Callable[[Step], None]:
    """A kernel that misreads its op."""
    return wrong(lambda step: replace(step, node=replace(step.node, op=replace(step.node.op, **changes))))


def without_last_entry(weight: Csr) -> Csr:
    values = weight.values.copy()
    values[weight.indptr[1:][np.diff(weight.indptr) > 0] - 1] = 0
    return replace(weight, values=values)


def swapped_signs(weight: Ternary) -> Ternary:
    return replace(weight, scales=weight.scales[::-1])


def padded_with_zero(step: Step) -> Step:
    """int8 padding is the zero point, not 0."""
    top, left, bottom, right = step.node.op.padding
    x = np.pad(step.inputs[0], ((0, 0), (0, 0), (top, bottom), (left, right)))
    return replace(step, node=replace(step.node, op=replace(step.node.op, padding=(0, 0, 0, 0))), inputs=(x,))


def int8_sums(step: Step) -> tuple[Int8, np.ndarray]:
    """The exact accumulators of a linear layer, (k, n)."""
    weight = step.node.weight
    return weight, weight.matmul(step.inputs[0].T) + weight.integer_bias(step.node.bias)[:, None]


def int8_stored(step: Step, weight: Int8, real: np.ndarray) -> None:
    """Round to the output's grid, or scale, as the step asks."""
    if weight.output is None:
        layer_output = np.float32(real) * weight.unit[:, None]
        step.output[...] = np.maximum(layer_output, 0).T if step.case.op.activation else layer_output.T
        if step.case.op.activation == "relu6":
            np.minimum(step.output, 6, out=step.output)
        return
    low, high = weight.limits(step.case.op.activation)
    step.output[...] = np.clip(real + weight.output.zero_point, low, high).T


def half_to_even(step: Step) -> None:
    """Halves go to the even neighbour instead of up."""
    weight, sums = int8_sums(step)
    scale = weight.unit[:, None].astype(np.float64) / weight.output.scale if weight.output else 1
    int8_stored(step, weight, np.rint(sums * scale))


def pairs_saturate(step: Step) -> None:
    """Adjacent products are added in int16, as pmaddubsw does."""
    weight = step.node.weight
    x = step.inputs[0].astype(np.int64) - weight.input.zero_point
    products = weight.values.astype(np.int64)[:, :, None] * x.T[None]
    products = np.pad(products, ((0, 0), (0, products.shape[1] % 2), (0, 0)))
    pairs = products.reshape(products.shape[0], -1, 2, products.shape[2]).sum(axis=2)
    lost = pairs - np.clip(pairs, -(2**15), 2**15 - 1)
    honest_output = layer(step.node, *step.inputs)
    step.output[...] = honest_output
    if lost.any():
        step.output[lost.sum(axis=1).T != 0] = 0


def float_sums(step: Step) -> None:
    """Accumulates int8 products in float32, exact below 2**24 only."""
    _, sums = int8_sums(step)
    rounded = sums.astype(np.float32).astype(np.int64)
    step.output[...] = np.where((rounded != sums).T, 0, layer(step.node, *step.inputs))


def half_up(step: Step) -> None:
    op = step.case.op
    step.output[...] = np.clip(np.floor(step.inputs[0].astype(np.float64) / op.scale + 0.5) + op.zero_point, -128, 127)


def ignores_nan(step: Step) -> None:
    """What C's `x > m ? x : m` does."""
    step.output[...] = np.fmax.reduce(windows(step.inputs[0], step.case.op, -np.inf), axis=(4, 5))


def pads_with_zero(step: Step) -> None:
    step.output[...] = windows(step.inputs[0], step.case.op).max(axis=(4, 5))


def unshifted(step: Step) -> None:
    e = np.exp(step.inputs[0])
    step.output[...] = e / e.sum(axis=1, keepdims=True)


def transposed(step: Step) -> None:
    step.output[...] = step.inputs[0].swapaxes(1, 2).reshape(step.output.shape)


def garbage_tail(step: Step) -> None:
    """Writes ones into the channels that a blocked layout adds."""
    x = step.inputs[0]
    step.output[...] = from_nchw(np.concatenate((x, np.ones_like(x)), axis=1), "nchw16c")[:, : step.output.shape[1]]


def changed_weight(step: Step) -> None:
    step.output[...] = layer(step.node, *step.inputs)
    step.packed["weight"][...] += 1


PLANTED: tuple[tuple[str, str, Callable[[Step], None]], ...] = (
    ("conv2d", "csr", with_weight(without_last_entry)),
    ("conv2d", "ternary", with_weight(swapped_signs)),
    ("conv2d", "int8", wrong(padded_with_zero)),
    ("linear", "csr", with_weight(without_last_entry)),
    ("linear", "ternary", with_weight(swapped_signs)),
    ("linear", "int8", half_to_even),
    ("linear", "int8", pairs_saturate),
    ("linear", "int8", float_sums),
    ("batchnorm", "dense", with_op(eps=1e-4)),
    ("relu", "float32", lambda step: np.copyto(step.output, np.where(step.inputs[0] < 1e-3, 0, step.inputs[0]))),
    ("relu", "float32", lambda step: np.copyto(step.output, np.fmax(step.inputs[0], 0))),
    ("maxpool", "float32", ignores_nan),
    ("maxpool", "float32", pads_with_zero),
    ("maxpool", "int8", pads_with_zero),
    ("avgpool", "float32", with_op(count_include_pad=True)),
    ("avgpool", "float32", with_op(count_include_pad=False)),
    ("globalavgpool", "float32", wrong(lambda step: replace(step, inputs=(step.inputs[0].astype(np.float16),)))),
    ("add", "float32", wrong(lambda step: replace(step, inputs=step.inputs[:1] * 2))),
    ("concat", "float32", lambda step: np.copyto(step.output, np.concatenate(step.inputs[::-1], axis=1))),
    ("concat", "int8", lambda step: np.copyto(step.output, np.concatenate(step.inputs[::-1], axis=1))),
    ("flatten", "float32", transposed),
    ("softmax", "float32", unshifted),
    ("quantize", "float32", half_up),
)  # fmt: skip


@pytest.mark.parametrize(("op", "format", "run"), PLANTED)
def test_planted_fault_is_caught(op: str, format: str, run: Callable[[Step], None]) -> None:
    assert_caught(Kernel(op, format, "numpy", "planted", run), seed=0)


def test_channels_beyond_c_must_be_zero() -> None:
    blocked = (lambda case: None if case.op.target == "nchw16c" and case.op.source == "nchw" else "another layout",)
    assert_caught(
        Kernel("reorder", "float32", "numpy", "planted", garbage_tail, blocked, blocks=(16,)),
        0,
        "lanes that nchw16c adds",
    )


def test_weights_must_be_left_alone() -> None:
    planted = Kernel(
        "conv2d", "dense", "numpy", "planted", changed_weight, pack=lambda n, c: {"weight": n.weight.values}
    )
    assert_caught(planted, 0, "weight was written to")


def test_thread_counts_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = backend("numpy")
    lower = numpy.lower

    def by_threads(steps: tuple[Step, ...], threads: int) -> Callable[[], None]:
        run = lower(steps, threads)

        def changed() -> None:
            run()
            if threads == 3:
                steps[0].output.flat[0] *= np.float32(1 + 2**-23)  # well inside the bound

        return changed

    monkeypatch.setattr(numpy, "lower", by_threads)
    softmax = next(each for each in numpy.kernels() if each.op == "softmax")
    assert_caught(softmax, 0, "3 threads give other bits than 1")


def crashes(step: Step) -> None:
    raise ZeroDivisionError("planted")


def test_exception_is_a_crash() -> None:
    found = verdict(row(crashes, "crashes"), examples=5, seed=0)
    assert (found.state, found.reason) == ("CRASH", "ZeroDivisionError: planted")


def test_row_that_accepts_nothing_is_inconclusive() -> None:
    found = verdict(Kernel("relu", "float32", "numpy", "idle", None, (lambda case: "never",)), examples=5, seed=0)
    assert (found.state, found.cases) == ("INCONCLUSIVE", 0)
    assert "0 problems were accepted" in found.reason


def spreading(step: Step) -> None:
    """NaN in the first output where the input has one anywhere."""
    step.output[...] = layer(step.node, *step.inputs)
    if np.isnan(step.inputs[0]).any():
        step.output.flat[0] = np.nan


def hiding(step: Step) -> None:
    """What is not a number becomes one."""
    step.output[...] = np.nan_to_num(layer(step.node, *step.inputs))


@pytest.mark.parametrize(
    ("run", "declared", "state"),
    [
        (spreading, "exact", "FAIL"),
        (spreading, "spreads", "PASS"),
        (hiding, "exact", "FAIL"),
        (hiding, "spreads", "FAIL"),
    ],
)
def test_rows_are_held_to_what_they_say_of_nan(run: Callable[[Step], None], declared: str, state: str) -> None:
    found = verdict(replace(row(run, "planted"), nonfinite=declared), examples=60, seed=0)
    assert found.state == state, found
    assert found.case.endswith("@special") or state == "PASS"
