"""Which parameters of CLBlast's kernels are the fastest on a device, for the matrix products of the study's networks.

    candidates -> each in a child of its own: every product checked, then timed -> the best of each kernel

CLBlast has two kernels for a product: Xgemm, behind copies to whole tiles, and XgemmDirect. A process has one set of
parameters for each, and a size from which it takes the first. All three are chosen for the least time of the three
networks; and for each product, which of its matrices is named first.
Next: trial.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from refstack.backends.clblast.products import LIMIT, NAMES, Setting, Sizes, networks, sizes
from refstack.backends.opencl import devices
from refstack.errors import BackendUnavailable
from refstack.worker import ChildFailed, Worker

NEVER = 100_000
"""A limit that no product reaches."""

KERNELS = ("Xgemm", "XgemmDirect")
Values = tuple[int, ...]
OWN: Values = ()
"""The library's own."""

CANDIDATES: dict[str, tuple[tuple[Values, Values], ...]] = {
    # nothing in local memory, few work-items with many sums each
    "cpu": (
        ((0, 1, 32, 2, 1, 1, 16, 2, 2, 16, 0, 0, 0, 0, 8, 8), (2, 2, 2, 2, 2, 0, 0, 8, 8, 16)),
        ((0, 1, 32, 2, 1, 1, 32, 4, 4, 16, 0, 0, 0, 0, 8, 4), (2, 8, 8, 8, 8, 1, 1, 4, 4, 32)),
        ((0, 1, 32, 2, 1, 1, 64, 1, 1, 4, 0, 0, 0, 0, 8, 4), (2, 4, 4, 4, 4, 0, 0, 4, 4, 16)),
        ((0, 1, 32, 2, 8, 8, 64, 32, 8, 128, 0, 0, 0, 0, 8, 4), (8, 8, 8, 8, 8, 0, 0, 8, 4, 64)),
    ),
    # what CLBlast's own database has for other GPUs
    "gpu": (
        ((0, 1, 32, 2, 16, 16, 64, 8, 8, 64, 1, 1, 0, 0, 4, 4), (2, 8, 8, 8, 8, 1, 1, 4, 2, 32)),
        ((0, 1, 16, 2, 32, 16, 64, 16, 8, 128, 1, 1, 0, 1, 2, 8), (16, 8, 8, 16, 16, 1, 1, 1, 1, 32)),
        ((0, 1, 32, 2, 8, 8, 32, 8, 8, 32, 1, 1, 0, 0, 4, 4), (2, 8, 8, 8, 8, 1, 1, 1, 1, 8)),
        ((0, 1, 32, 2, 8, 8, 32, 16, 16, 32, 1, 1, 0, 0, 4, 2), (2, 8, 8, 8, 8, 1, 1, 1, 1, 16)),
    ),
}
"""Of Xgemm and XgemmDirect, in the order of NAMES, by the device's kind."""

TIMEOUT_S = 900.0
"""How long a candidate may take, compilation included."""

Times = dict[tuple[str, Values, bool], dict[Sizes, float]]
"""(kernel, its parameters, filters first) -> us of each product that it got right."""

Choice = tuple[Values, Values, int]
"""Of Xgemm, of XgemmDirect, the size from which the first is taken."""


def search(say: Callable[[str], None]) -> Setting:
    """The fastest setting. BackendUnavailable if no candidate gives right numbers."""
    times: Times = {}
    candidates = [(OWN, OWN), *CANDIDATES.get(devices.chosen().kind, ())]
    for i, pair in enumerate(candidates):
        for kernel, values in zip(KERNELS, pair, strict=True):
            for *size, first, us in _ask(kernel, pair, say):
                times.setdefault((kernel, values, bool(first)), {})[tuple(size)] = us
        say(f"CLBlast's parameters: {i + 1} of {len(candidates)} candidates measured")
    return best(times, {name: [sizes(case) for case in cases] for name, cases in networks().items()})


def _ask(kernel: str, pair: tuple[Values, Values], say: Callable[[str], None]) -> list[Any]:
    """What the child found for one of the pair's kernels."""
    parameters = named(pair, 0 if kernel == "Xgemm" else NEVER)
    with Worker((sys.executable, "-m", "refstack.backends.clblast.trial"), 1) as worker:
        try:
            return list(worker.ask("measure", TIMEOUT_S, parameters=parameters)["times"])
        except ChildFailed as error:
            say(f"CLBlast: {kernel} with {parameters} is left out: {error.reason}")
            return []


def named(pair: tuple[Values, Values], limit: int) -> dict[str, dict[str, int]]:
    """As CLBlast is told."""
    listed = zip(KERNELS, pair, strict=True)
    found = {kernel: dict(zip(NAMES[kernel], values, strict=True)) for kernel, values in listed if values != OWN}
    return {**found, "GemmRoutine": {LIMIT: limit}}


def best(times: Times, wanted: Mapping[str, Sequence[Sizes]]) -> Setting:
    """The setting with the least sum over networks of (its time / the time if each product had its own best).

    Raises      BackendUnavailable      no candidate computes all products
    """
    distinct = set().union(*wanted.values())
    least = {size: min((each.get(size, math.inf) for each in times.values()), default=math.inf) for size in distinct}
    if not all(map(math.isfinite, least.values())):
        raise BackendUnavailable("CLBlast: no parameters give right numbers on this device; choose another --device")
    listed = [dict.fromkeys(values for kernel, values, _ in times if kernel == each) for each in KERNELS]
    limits = sorted({0, NEVER, *map(_root, distinct)})

    def cost(choice: Choice) -> float:
        took = {size: _taken(times, size, choice)[0] for size in distinct}
        return sum(sum(took[size] for size in each) / sum(least[size] for size in each) for each in wanted.values())

    indirect, direct, limit = chosen = min(product(listed[0], listed[1], limits), key=cost)
    first = frozenset(size for size in distinct if _taken(times, size, chosen)[1])
    return Setting(named((indirect, direct), limit), first)


def _root(size: Sizes) -> int:
    """The least limit with which XgemmDirect is taken."""
    root = round(math.prod(size) ** (1 / 3))
    return root + (root**3 <= math.prod(size))


def _taken(times: Times, size: Sizes, choice: Choice) -> tuple[float, bool]:
    """(us, whether filters come first) of a product."""
    indirect, direct, limit = choice
    kernel, values = ("Xgemm", indirect) if math.prod(size) >= limit**3 else ("XgemmDirect", direct)
    return min((times.get((kernel, values, first), {}).get(size, math.inf), first) for first in (False, True))
