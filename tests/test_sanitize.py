"""Some of the C kernels under the sanitizers, and the proof that these see; `make sanitize` runs all of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from mutation.hand import SANITIZED, Mutant
from mutation.sanitize import as_it_should, units, watched
from mutation.tree import Result, sanitized

from refstack.backends import openmp
from refstack.errors import BackendUnavailable

CLEAN = sorted({mutant.unit for mutant in SANITIZED} | {"conv2d_csr_planar.c", "linear_int8.c"})


def missing() -> str:
    """Why the sanitizers cannot be used here, or nothing."""
    try:
        runtime = sanitized()[1]["LD_PRELOAD"]
    except (BackendUnavailable, subprocess.CalledProcessError) as error:
        return str(error)
    return "" if os.path.isabs(runtime) else f"the compiler has no address sanitizer ({runtime})"


pytestmark = pytest.mark.skipif(missing() != "", reason=missing())


@pytest.fixture(scope="module")
def found() -> Iterator[dict[object, Future[Result]]]:
    """All trials, side by side."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {subject: pool.submit(watched, subject, 20) for subject in (*SANITIZED, *CLEAN)}


@pytest.mark.parametrize("planted", SANITIZED, ids=lambda mutant: mutant.number)
def test_planted_fault_is_seen(planted: Mutant, found: dict[object, Future[Result]]) -> None:
    result = found[planted].result()
    assert as_it_should(planted, result), result


@pytest.mark.parametrize("unit", CLEAN)
def test_kernels_are_clean(unit: str, found: dict[object, Future[Result]]) -> None:
    result = found[unit].result()
    assert as_it_should(unit, result), result


def test_another_end_is_not_as_it_should_be() -> None:
    """A planted fault that dies of something else, and a kernel that never ran, are no success."""
    assert not as_it_should(SANITIZED[0], Result("killed", "CRASH linear.csr.openmp.direct: SIGSEGV"))
    assert not as_it_should(SANITIZED[0], Result("survived"))
    assert not as_it_should("maxpool.c", Result("idle"))


@pytest.mark.skipif(openmp.unavailable() is not None, reason=str(openmp.unavailable()))
def test_every_kernel_is_in_a_unit() -> None:
    text = "".join((openmp.sources() / unit).read_text() for unit in units())
    for row in openmp.kernels():
        name = row.run.removeprefix("rs_maxpool_")
        assert name in text, f"{row.name}: no unit has {row.run}"
