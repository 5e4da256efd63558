"""The same bits every time: any number of threads, any run, any address; and callers do not meet.

docs/numerics.md promises it of the OpenMP rows. Rows that rest on BLAS repeat their bits at one number of threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calls import ROWS, Call
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from networks import images, small
from threadpoolctl import threadpool_info

import refstack as rs
from refstack.backends import Step, backend
from refstack.formats import INTEGER, Array
from refstack.graph import Graph
from refstack.kernels import Kernel
from refstack.models import zoo
from refstack.verification.cases import Seeded
from refstack.verification.fills import inputs_of
from refstack.verification.harness import draw, real_case

OPENMP = [row for row in ROWS if row.backend == "openmp"]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = sorted({1, 2, 3, 5, CORES, 2 * CORES})
OFFSETS = (0, 1, 5, 15)
"""Elements by which arrays miss a cache line: of float32, 4, 20 and 60 bytes; of int8, single bytes."""

FILLS = dict.fromkeys(INTEGER, "integer")


def difference(row: Kernel, seed: int) -> tuple[str, int]:
    """In words where a row's bits depend on what they must not, or nothing; and how many runs were compared."""
    problem = draw(row, Seeded(seed, zlib.crc32(row.name.encode())), FILLS.get(row.format, "normal"))
    assert problem is not None, f"{row.name} takes no drawn problem"
    node, _ = real_case(problem)
    x, z = inputs_of(problem), inputs_of(problem, change=1)
    first = Call(row, node, x)
    wanted, compared = {"x": first(*x).tobytes(), "z": first(*z).tobytes()}, 0
    for i, threads in enumerate(THREADS):
        for offset in {0, OFFSETS[(seed + i) % len(OFFSETS)]}:
            call = Call(row, node, x, threads, offset)
            for name, inputs in (("x", x), ("z", z), ("x", x)):
                compared += 1
                if call(*inputs).tobytes() != wanted[name]:
                    return f"{problem}: other bits with {threads} threads, {offset} elements off a cache line", compared
    return "", compared


@pytest.mark.parametrize("row", OPENMP, ids=lambda row: row.name)
def test_kernel(row: Kernel) -> None:
    """Six numbers of threads, two addresses each, three calls in the same buffers."""
    ran: list[int] = []

    @settings(max_examples=max(5, settings().max_examples // 6), phases=(Phase.reuse, Phase.generate))
    @given(st.integers(0, 2**31))
    def check(seed: int) -> None:
        found, compared = difference(row, seed)
        assert not found, f"{row.name}: {found}"
        ran.append(compared)

    check()
    assert len(ran) >= 5
    assert min(ran) >= 3 * len(THREADS)


def test_that_every_openmp_row_is_tested() -> None:
    if backend("openmp").unavailable():
        pytest.skip(f"no OpenMP rows: {backend('openmp').unavailable()}")
    assert [row.name for row in OPENMP] == [row.name for row in backend("openmp").kernels()]
    assert OPENMP


def in_order_of(what: Callable[[Step], int]) -> Callable[[Step], None]:
    """A kernel that sums its channels in an order that depends on something."""

    def run(step: Step) -> None:
        x = step.inputs[0]
        order = np.roll(np.arange(x.shape[1]), what(step) % x.shape[1])
        total = np.zeros_like(x[:, 0])
        for channel in order:
            total += x[:, channel] * np.float32(1 + channel / 7)
        step.output[...] = total[:, None]

    return run


@pytest.mark.parametrize("what", ["address", "calls"])
def test_planted_fault_is_seen(what: str) -> None:
    """An order of summation that depends on the address, and one that depends on the number of calls."""
    count = iter(range(10**6))
    order = {"address": lambda step: step.inputs[0].ctypes.data // 4 % 16, "calls": lambda step: next(count)}[what]
    row = Kernel("relu", "float32", "numpy", what, in_order_of(order))
    assert any(difference(row, seed)[0] for seed in range(10))


def networks() -> dict[str, Graph]:
    """A small network of every kind of layer in every format."""
    graph = zoo.draw(small())
    found = {technique: rs.compress(graph, technique) for technique in ("dense", "weight", "ternary")}
    return {**found, "int8": rs.compress(graph, "int8", calibration=images(graph, 8))}


def together(calls: list[Callable[[], Array]], times: int) -> list[list[bytes]]:
    """What each call gave, `times` times, when all were made at once from threads of their own."""
    results: list[list[bytes]] = [[] for _ in calls]
    start = threading.Barrier(len(calls))

    def caller(i: int) -> None:
        start.wait()
        results[i] += [calls[i]().tobytes() for _ in range(times)]

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(len(calls))]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    return results


@pytest.mark.parametrize("chosen", ["openmp", "blas", "numpy"])
@pytest.mark.parametrize("shared", [True, False], ids=["one plan", "plan each"])
def test_callers_do_not_meet(chosen: str, shared: bool) -> None:
    """Eight Python threads with inputs of their own get what each alone gets, from one plan or from one each."""
    if backend(chosen).unavailable():
        pytest.skip(f"backend {chosen}: {backend(chosen).unavailable()}")
    for technique, graph in networks().items():
        threads = 2 if chosen == "openmp" else 1
        one = rs.plan(graph, 2, (chosen,), threads)
        inputs = [images(graph, 2, seed=seed) for seed in range(8)]
        alone = [one.run(x).tobytes() for x in inputs]
        assert len(set(alone)) == 8, "the inputs tell nothing apart"
        plans = [one if shared else rs.plan(graph, 2, (chosen,), threads) for _ in inputs]
        calls = [lambda p=p, x=x: p.run(x) for p, x in zip(plans, inputs, strict=True)]  # type: ignore[misc]
        for wanted, got in zip(alone, together(calls, times=4), strict=True):
            assert got == [wanted] * 4, f"{technique}: a caller got another one's numbers, or other bits"


def test_callers_that_meet_are_seen() -> None:
    """The planted fault: a plan without its lock, whose callers write over each other's input."""
    graph = networks()["dense"]
    unlocked = replace(rs.plan(graph, 2, ("numpy",)), lock=nullcontext())  # type: ignore[arg-type]
    inputs = [images(graph, 2, seed=seed) for seed in range(8)]
    alone = [unlocked.run(x).tobytes() for x in inputs]
    calls = [lambda x=x: unlocked.run(x) for x in inputs]  # type: ignore[misc]
    rounds = (together(calls, times=4) for _ in range(100))
    assert any(got != [wanted] * 4 for each in rounds for wanted, got in zip(alone, each, strict=True))


@pytest.mark.parametrize("technique", ["dense", "weight", "ternary", "int8"])
def test_a_plan_remembers_nothing(technique: str) -> None:
    """A, B, A from one plan; A from plans made anew, with other threads and at other addresses."""
    graph = networks()[technique]
    a, b = images(graph, 2, seed=1), images(graph, 2, seed=2)
    if backend("openmp").unavailable():
        pytest.skip(f"no OpenMP: {backend('openmp').unavailable()}")
    plan = rs.plan(graph, 2, ("openmp",), 1)
    first, second, third = (plan.run(x).tobytes() for x in (a, b, a))
    assert first == third != second
    kept = []  # so that the next arena lies elsewhere
    for threads in THREADS:
        kept.append(rs.plan(graph, 2, ("openmp",), threads))
        assert kept[-1].run(a).tobytes() == first, f"{threads} threads"


def callers_of(chosen: str) -> None:
    """Two callers that want one and two threads; the second one comes while the first one is at work."""
    entered, left, seen = threading.Event(), threading.Event(), {}

    def of_blas() -> set[int]:
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    def caller(threads: int, then: threading.Event) -> threading.Thread:
        def work(step: Step) -> None:
            (entered if threads == 2 else started).set()
            then.wait(0.3)  # for the other one, if that can come
            seen[threads] = of_blas()

        row = Kernel("relu", "float32", chosen, "waits", work)
        run = backend(chosen).lower((Step(None, None, row, (), None, {}, None),), threads)  # type: ignore[arg-type]
        return threading.Thread(target=lambda: (run(), left.set()))

    started, before = threading.Event(), of_blas()
    first, second = caller(1, entered), caller(2, left)
    first.start()
    started.wait()
    second.start()
    first.join()
    second.join()
    assert seen == {1: {1}, 2: {1 if chosen == "numpy" else 2}}, seen  # the reference has one answer, by one thread
    assert of_blas() == before, (of_blas(), before)
    print("compared")


@pytest.mark.parametrize("chosen", ["blas", "numpy"])
def test_callers_do_not_set_each_others_threads(chosen: str) -> None:
    """BLAS's number of threads belongs to the process: a caller has its own all the time, and leaves what it found.

    In a process of its own, since the thread that holds the limit of all tests keeps others from setting one.
    """
    if backend(chosen).unavailable():
        pytest.skip(f"backend {chosen}: {backend(chosen).unavailable()}")
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_determinism as t\n"
    code += f"t.callers_of({chosen!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "3"},
    )  # fmt: skip
    assert done.stdout.strip() == "compared", done.stderr
