"""The child that tries one set of CLBlast's parameters: python -m refstack.backends.clblast.trial

measure     {"parameters": kernel -> name -> value} -> {"times": [[pixels, filters, depth, filters first, us], ..]}
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import pyopencl as cl

from refstack.backends.clblast.products import Parameters, Setting, networks, sizes
from refstack.backends.clblast.rows import Gemm
from refstack.backends.opencl.segment import runtime
from refstack.formats import Array
from refstack.kernels import Case
from refstack.ops import Conv2d
from refstack.worker import serve

ROUNDS = 7
"""Times that each product is taken."""

OUT_OF_SIGHT = 64 << 20
"""Bytes that are written before each: in a network other layers have pushed a product's weights out of the cache."""


class Session:
    """One set of parameters, since a process has no second one."""

    def measure(self, parameters: dict[str, dict[str, int]]) -> dict[str, Any]:
        """us of each distinct product, by its sizes and order; those that came out wrong are left out."""
        distinct = {sizes(case): case for cases in networks().values() for case in cases}
        found = []
        for size, case in distinct.items():
            for first in (False, True) if isinstance(case.op, Conv2d) else (True,):
                found.append([*size, first, _time(Trial(case, first, parameters))])
        return {"times": [each for each in found if each[-1] is not None]}


class Trial:
    """One product on the device, by the very call that the rows make."""

    def __init__(self, case: Case, filters_first: bool, parameters: Parameters) -> None:
        self.sizes = sizes(case)
        pixels, filters, depth = self.sizes
        owner = runtime()
        self.queue = owner.queue(False)
        self.x, self.y, self.w = (owner.buffer(4 * n) for n in (depth * pixels, filters * pixels, depth * filters))
        setting = Setting(parameters, frozenset({self.sizes} if filters_first else ()))
        given = (self.x, self.y, self.y, self.w, self.x)
        self.call = Gemm(lambda: setting).bind(owner, self.queue, case, given)

    def run(self, x: Array, w: Array) -> Array:
        """(filters, pixels) of columns and transposed weights."""
        pixels, filters, _ = self.sizes
        y = np.full((filters, pixels), np.nan, np.float32)
        for buffer, array in ((self.x, x), (self.w, w), (self.y, y)):
            cl.enqueue_copy(self.queue, buffer, array)
        self.again()
        cl.enqueue_copy(self.queue, y, self.y)
        return y

    def again(self) -> float:
        """Once more, seconds until it is done."""
        cl.enqueue_fill_buffer(self.queue, _others(), np.float32(0), 0, OUT_OF_SIGHT)
        self.queue.finish()
        start = time.perf_counter()
        self.call()
        self.queue.finish()
        return time.perf_counter() - start


@cache
def _others() -> cl.Buffer:
    return runtime().buffer(OUT_OF_SIGHT)


def _time(trial: Trial) -> float | None:
    """us, the least of some; None if the product is wrong."""
    rng = np.random.default_rng(0)
    pixels, filters, depth = trial.sizes
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((depth, pixels), (depth, filters)))
    wanted = w.astype(np.float64).T @ x
    allowed = np.abs(w).T @ np.abs(x) * depth * 2.0**-24 * 1.01
    if not (np.abs(trial.run(x, w) - wanted) <= allowed).all():
        return None
    return min(trial.again() for _ in range(ROUNDS)) * 1e6


if __name__ == "__main__":
    serve(Session(), ("measure",))
