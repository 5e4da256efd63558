"""OpenMP rows and threads: the same bits from any number, callers that do not meet, a process left as it was."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openmp_cases
import pytest
from openmp_cases import ROWS, able, conv, execute, inputs, node

from refstack.kernels import Case, Kernel

pytestmark = openmp_cases.pytestmark


@pytest.mark.parametrize("kernel", ROWS, ids=lambda kernel: kernel.name)
def test_threads_do_not_change_a_bit(kernel: Kernel) -> None:
    for seed, case in enumerate(able(kernel)[::5]):
        rng = np.random.default_rng(seed)
        made, xs = node(rng, case, integer=False), inputs(rng, case, integer=False)
        alone = execute(kernel, made, case, xs, 1)
        for threads in (2, 3, 5):
            assert execute(kernel, made, case, xs, threads).tobytes() == alone.tobytes(), (case.word, threads)


def test_python_threads_do_not_meet() -> None:
    """Several callers at once, each with arrays of its own, get what one alone gets."""
    kernel = next(row for row in ROWS if row.name == "conv2d.dense.openmp.blocked")
    case = Case(conv(32), "dense", ((1, 16, 16, 16),))
    rng = np.random.default_rng(0)
    made = node(rng, case, False)
    xs = [inputs(rng, case, False) for _ in range(4)]
    wanted = [execute(kernel, made, case, x) for x in xs]
    start = threading.Barrier(len(xs))

    def call(i: int) -> list[bool]:
        start.wait()  # one call is over before the next thread has started
        return [np.array_equal(execute(kernel, made, case, xs[i], 2), wanted[i]) for _ in range(30)]

    with ThreadPoolExecutor(len(xs)) as pool:
        assert all(all(right) for right in pool.map(call, range(len(xs))))


def _in_child(queue: multiprocessing.Queue[float]) -> None:
    queue.put(_sum_of_a_parallel_call())


def _sum_of_a_parallel_call(threads: int = 2) -> float:
    kernel = next(row for row in ROWS if row.name == "conv2d.dense.openmp.direct")
    case = Case(conv(8), "dense", ((1, 3, 8, 8),))
    rng = np.random.default_rng(0)
    return float(execute(kernel, node(rng, case, True), case, inputs(rng, case, True), threads=threads).sum())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_hang() -> None:
    wanted = _sum_of_a_parallel_call()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=20) == wanted
    finally:
        child.kill()
        child.join()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are only bound on Linux")
def test_threads_are_bound_during_a_call_only() -> None:
    before = os.sched_getaffinity(0)
    bound = {task: os.sched_getaffinity(task) for task in _tasks()}  # another runtime's threads may be
    wanted = _sum_of_a_parallel_call(len(before))
    tasks = _tasks()
    assert len(before) == 1 or len(tasks) > 1, "no thread was started, nothing is shown"
    assert {task: os.sched_getaffinity(task) for task in tasks} == {task: bound.get(task, before) for task in tasks}
    assert _sum_of_a_parallel_call(len(before)) == wanted


def _tasks() -> list[int]:
    return [int(task) for task in os.listdir("/proc/self/task")]


def test_no_flushing_to_zero_after_a_call() -> None:
    _sum_of_a_parallel_call()
    assert np.float32(1e-40) * np.float32(1) != 0
