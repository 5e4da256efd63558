"""Why a value is wrong: zero all inputs and weights that it does not hang on, and name the products that are left.

    with all else zero y[0,3,0,14] is 7.0 instead of 12.0, which takes x[0,0,0,14]=3.0 and w[3,0]=-2.0
Next: child.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from refstack.contract import bound
from refstack.formats import FORMATS, Array, Int8, Weight
from refstack.graph import Node
from refstack.kernels import Case, Kernel
from refstack.verification.cases import Problem
from refstack.verification.fills import WEIGHTED, inputs_of
from refstack.verification.harness import POISON, Rig, real_case

SECONDS = 5.0
SHOWN = 4
"""Entries named of each array; more are counted."""


def taps(row: Kernel, problem: Problem) -> str:
    """In words where the output is wrong and what it takes to make it so; nothing if it is right at the first call."""
    node, case = real_case(problem)
    x, others = inputs_of(problem)[0], inputs_of(problem)[1:]
    deadline, bias = time.monotonic() + SECONDS, node.bias

    def wrong(x: Array, weight: Weight | None) -> tuple[tuple[int, ...], float, float] | None:
        """(position, got, wanted) of the first wrong value."""
        return _first_wrong(row, replace(node, weight=weight, bias=bias), case, (x, *others))

    first = wrong(x, node.weight)
    if first is None:
        return ""
    if not isinstance(case.op, WEIGHTED) or node.weight is None:
        return ""
    matrix = _values(node.weight)
    if bias is not None:
        bias = np.zeros_like(bias)
        bias = bias if wrong(x, node.weight) else node.bias
    x = _zeroed(x, lambda kept: wrong(kept, node.weight) is not None, deadline)
    matrix = _zeroed(matrix, lambda kept: wrong(x, _with_values(node.weight, kept)) is not None, deadline)
    last = wrong(x, _with_values(node.weight, matrix)) or first
    (where, got, wanted), named = last, " and ".join(filter(None, (_named("x", x), _named("w", matrix))))
    at = f"y[{','.join(map(str, where))}] is {got!r} instead of {wanted!r}"
    return f"with all else zero {at}, which takes {named}" if named else f"even with x and w all zero {at}"


@np.errstate(all="ignore")
def _first_wrong(row: Kernel, node: Node, case: Case, inputs: tuple[Array, ...]) -> Any:
    rig = Rig(row, node, case, inputs, 1)
    allowed, y = bound(node, inputs, row.algorithm), rig.call(inputs, POISON[0]).astype(np.float64)
    if y.shape != allowed.value.shape:
        return None
    error = np.abs(y - allowed.value)
    bad = ~((error <= allowed.limit) | (np.isnan(y) & np.isnan(allowed.value)) | (y == allowed.value))
    if not bad.any():
        return None
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return where, float(y[where]), float(allowed.value[where])


def _zeroed(array: Array, fails: Callable[[Array], bool], deadline: float) -> Array:
    """The array with as many entries set to zero, in halves, then quarters .., as keep it failing."""
    kept = np.flatnonzero(array)
    size = max(1, len(kept) // 2)
    while True:
        start = 0
        while start < len(kept) and time.monotonic() < deadline:
            left = np.delete(kept, slice(start, start + size))
            tried = np.zeros_like(array)
            tried.flat[left] = array.flat[left]
            if fails(tried):
                kept = left
            else:
                start += size
        if size == 1 or time.monotonic() >= deadline:
            break
        size = max(1, min(size // 2, len(kept) // 2))
    result = np.zeros_like(array)
    result.flat[kept] = array.flat[kept]
    return result


def _values(weight: Weight) -> Array:
    """What may be zeroed: int8's numbers, else the matrix."""
    return weight.values if isinstance(weight, Int8) else weight.decode()


def _with_values(weight: Weight | None, values: Array) -> Weight:
    """The same weight with other numbers."""
    if isinstance(weight, Int8):
        return replace(weight, values=values)
    assert weight is not None
    return FORMATS[weight.format].encode(values)


def _named(name: str, array: Array) -> str:
    """x[0,0,0,14]=3.0 for what is not zero."""
    places = np.argwhere(array)
    texts = [f"{name}[{','.join(map(str, at))}]={array[tuple(at)]}" for at in places[:SHOWN]]
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return " ".join(texts) + more
