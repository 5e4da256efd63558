"""Arrays as callers have them: whatever their strides, order and address, they are read right or refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from networks import small

import refstack as rs
from refstack.backends import BACKENDS, backend
from refstack.errors import ShapeError
from refstack.formats import Array

USABLE = [name for name in BACKENDS if not backend(name).unavailable()]


def at_odd_address(x: Array, shift: int) -> Array:
    """The same numbers, `shift` bytes behind an aligned address."""
    room = np.empty(x.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64 + shift
    moved = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    moved[...] = x
    assert moved.ctypes.data % 64 == shift
    return moved


def readonly(x: Array) -> Array:
    made = x.copy()
    made.flags.writeable = False
    return made


def every_second(x: Array) -> Array:
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "Fortran order": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "rows backwards": lambda x: np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
    "every second number": every_second,
    "one float off": lambda x: at_odd_address(x, 4),
    "one byte off": lambda x: at_odd_address(x, 1),
    "read-only": readonly,
}


@pytest.fixture(scope="module", params=USABLE)
def plan(request: pytest.FixtureRequest) -> rs.Plan:
    return rs.plan(small(), batch=2, backends=(request.param,))


@pytest.fixture(scope="module")
def x() -> Array:
    return np.random.default_rng(0).standard_normal((2, *small().input_shape)).astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_is_read_right(plan: rs.Plan, x: Array, layout: Callable[[Array], Array]) -> None:
    given = layout(x)
    np.testing.assert_array_equal(given, x)
    np.testing.assert_array_equal(plan.run(given), plan.run(x))
    np.testing.assert_array_equal(given, x, "the caller's array is left alone")


def test_broadcast_input(plan: rs.Plan, x: Array) -> None:
    """One image shown twice, by a stride of zero."""
    once = np.broadcast_to(x[:1], x.shape)
    np.testing.assert_array_equal(plan.run(once), plan.run(once.copy()))


def test_the_plans_own_arrays_may_be_given(plan: rs.Plan, x: Array) -> None:
    """Input and result do not share memory: the arena's input overlaps what later layers write."""
    wanted = plan.run(x)
    plan.x[...] = x
    np.testing.assert_array_equal(plan.run(plan.x), wanted)
    first = plan.run(x)
    plan.run(-x)
    np.testing.assert_array_equal(first, wanted, "a result is the caller's own")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(">f4"), lambda x: x.astype(np.float64), lambda x: x.astype(np.float16), lambda x: x[:1],
        lambda x: x[:, :, :, :-1], lambda x: x[0], lambda x: x[:0], lambda x: x.transpose(0, 2, 3, 1).copy(),
    ],
)  # fmt: skip
def test_what_would_be_misread_is_refused(plan: rs.Plan, x: Array, change: Callable[[Array], Array]) -> None:
    with pytest.raises(ShapeError, match="this plan wants float32"):
        plan.run(change(x))
