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
from typing import Any

from refstack.backends.clblast.products import LIMIT, NAMES, Setting, Sizes, networks, sizes
from refstack.errors import BackendUnavailable
from refstack.worker import ChildFailed, Worker

NEVER = 100_000
"""A limit that no product reaches."""

KERNELS = ("Xgemm", "XgemmDirect")
CANDIDATES: dict[str, tuple[tuple[int, ...], ...]] = {
    "Xgemm": (
        # processors: nothing in local memory, few work-items with many sums
        (0, 1, 32, 2, 8, 8, 64, 32, 8, 128, 0, 0, 0, 0, 8, 4),
        (0, 1, 32, 2, 1, 1, 16, 2, 2, 16, 0, 0, 0, 0, 8, 8),
        # GPUs: what CLBlast's database has for NVIDIA's
        (0, 1, 32, 2, 16, 16, 64, 8, 8, 64, 1, 1, 0, 0, 4, 4),
        (0, 1, 16, 2, 32, 16, 64, 16, 8, 128, 1, 1, 0, 1, 2, 8),
        (0, 1, 32, 2, 8, 8, 32, 8, 8, 32, 1, 1, 0, 0, 4, 4),
    ),
    "XgemmDirect": (
        (2, 8, 8, 8, 8, 1, 1, 4, 4, 32),
        (2, 2, 2, 2, 2, 0, 0, 8, 8, 16),
        (2, 8, 8, 8, 8, 1, 1, 4, 2, 32),
        (16, 8, 8, 16, 16, 1, 1, 1, 1, 32),
        (2, 8, 8, 8, 8, 1, 1, 1, 1, 8),
    ),
}
"""Values in the order of NAMES; the n-th of both are compiled together."""

TIMEOUT_S = 400.0
"""How long a candidate may take, compilation included."""

Times = dict[tuple[str, int, bool], dict[Sizes, float]]
"""(kernel, number of the candidate, -1: CLBlast's own; filters first) -> us of each product that it got right."""


def named(kernel: str, number: int) -> dict[str, int]:
    """A candidate's parameters by name."""
    return dict(zip(NAMES[kernel], CANDIDATES[kernel][number], strict=True))


def search(say: Callable[[str], None]) -> Setting:
    """The fastest setting. BackendUnavailable if no candidate gives right numbers."""
    times: Times = {}
    count = len(CANDIDATES["Xgemm"])
    for number in range(-1, count):
        for kernel in KERNELS:
            for line in _ask(number, kernel, say):
                times.setdefault((kernel, number, bool(line[3])), {})[tuple(line[:3])] = line[4]
        say(f"CLBlast's parameters: {number + 2} of {count + 1} candidates measured")
    return best(times, {name: [sizes(case) for case in cases] for name, cases in networks().items()})


def _ask(number: int, kernel: str, say: Callable[[str], None]) -> list[Any]:
    parameters = {each: named(each, number) for each in KERNELS if number >= 0}
    parameters["GemmRoutine"] = {LIMIT: 0 if kernel == "Xgemm" else NEVER}
    with Worker((sys.executable, "-m", "refstack.backends.clblast.trial"), 1) as worker:
        try:
            return list(worker.ask("measure", TIMEOUT_S, parameters=parameters)["times"])
        except ChildFailed as error:
            say(f"CLBlast: candidate {number} of {kernel} is left out: {error.reason}")
            return []


def best(times: Times, wanted: Mapping[str, Sequence[Sizes]]) -> Setting:
    """The setting with the least sum over networks of (its time / the time if each product had its own best).

    Raises      BackendUnavailable      no candidate computes all products
    """
    least = {size: min(each.get(size, math.inf) for each in times.values()) for size in set().union(*wanted.values())}
    numbers = {kernel: sorted({number for name, number, _ in times if name == kernel}) for kernel in KERNELS}
    limits = sorted({0, NEVER, *(_root(size) for size in least), *(_root(size) + 1 for size in least)})
    found: tuple[float, int, int, int] = (math.inf, 0, 0, 0)
    for indirect in numbers["Xgemm"]:
        for direct in numbers["XgemmDirect"]:
            for limit in limits:
                took = {size: _taken(times, size, indirect, direct, limit)[0] for size in least}
                cost = sum(
                    sum(map(took.__getitem__, each)) / sum(map(least.__getitem__, each)) for each in wanted.values()
                )
                found = min(found, (cost, indirect, direct, limit))
    cost, indirect, direct, limit = found
    if not math.isfinite(cost):
        raise BackendUnavailable("CLBlast: no parameters give right numbers on this device; choose another --device")
    own = {"Xgemm": indirect, "XgemmDirect": direct}
    parameters = {kernel: named(kernel, number) for kernel, number in own.items() if number >= 0}
    first = frozenset(size for size in least if _taken(times, size, indirect, direct, limit)[1])
    return Setting({**parameters, "GemmRoutine": {LIMIT: limit}}, first)


def _root(size: Sizes) -> int:
    """The largest limit with which Xgemm is taken."""
    root = round(math.prod(size) ** (1 / 3))
    return root if root**3 <= math.prod(size) else root - 1


def _taken(times: Times, size: Sizes, indirect: int, direct: int, limit: int) -> tuple[float, bool]:
    """(us, whether filters come first) of a product with these candidates."""
    kernel, number = ("Xgemm", indirect) if math.prod(size) >= limit**3 else ("XgemmDirect", direct)
    return min((times.get((kernel, number, first), {}).get(size, math.inf), first) for first in (False, True))
