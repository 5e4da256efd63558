"""Hypothesis on top of refstack's own drawing (refstack/verification/families.py): the same problems, which shrink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from refstack.formats import INTEGER
from refstack.kernels import Kernel
from refstack.verification import cases, families, fills, harness

T = TypeVar("T")


class Drawn:
    """Choices that hypothesis makes, and shrinks."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def among(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(list(options)))


@st.composite
def problems(draw: Any, row: Kernel) -> cases.Problem:
    """A problem that this row accepts."""
    problem = harness.draw(row, Drawn(draw))
    assume(problem is not None)
    return problem


@st.composite
def tiny(draw: Any, op: str, format: str = "dense") -> cases.Problem:
    """A problem of a few numbers, small enough for nested loops in Python. Fills are exact ones."""
    choose = Drawn(draw)
    family = families.FAMILIES[op]["general"]
    layer, inputs = family(choose, (2,))
    assume(sum(int(np.prod(shape)) for shape in inputs) <= 300)
    word = choose.among(fills.fills(op, format)) if format in INTEGER else "integer"
    return fills.problem_of(choose, layer, inputs, format, word)


@st.composite
def matrices(draw: Any, values: Sequence[float] | None = None, most: int = 9) -> np.ndarray:
    """A float32 (rows, cols) matrix from a few values, or of anything finite; rows and columns from 1 to `most`."""
    rows, cols = draw(st.integers(1, most)), draw(st.integers(1, most))
    finite = st.floats(-(2.0**60), 2.0**60, width=32)
    entry = st.sampled_from(list(values)) if values else st.one_of(st.just(0.0), st.just(0.0), finite)
    return np.array(draw(st.lists(entry, min_size=rows * cols, max_size=rows * cols)), np.float32).reshape(rows, cols)
