"""Every row of the registry on drawn problems. Tests come from the rows: a new row is tested by being there."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from strategies import problems

from refstack.backends import BACKENDS, backend
from refstack.kernels import Kernel
from refstack.verification.cases import Problem
from refstack.verification.choices import Recorder, Replay
from refstack.verification.fills import fills
from refstack.verification.harness import draw, examine, families
from refstack.verification.verdicts import problems as seeded

ROWS = [kernel for name in BACKENDS if not backend(name).unavailable() for kernel in backend(name).kernels()]
LEAST_EXAMPLES = 30


@pytest.mark.parametrize("name", BACKENDS)
def test_backend_can_run(name: str) -> None:
    """A backend that cannot run here fails, unless the user says that there is no compiler."""
    reason = backend(name).unavailable()
    if reason and os.environ.get("REFSTACK_TEST_WITHOUT_COMPILER"):
        pytest.skip(f"REFSTACK_TEST_WITHOUT_COMPILER is set and backend {name} cannot run: {reason}")
    assert not reason, f"backend {name} cannot run here: {reason} (set REFSTACK_TEST_WITHOUT_COMPILER=1 to skip)"
    assert [row for row in ROWS if row.backend == name], f"backend {name} has no rows"


def test_missing_compiler_fails_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend("openmp"), "unavailable", lambda: "no C compiler found")
    monkeypatch.delenv("REFSTACK_TEST_WITHOUT_COMPILER", raising=False)
    with pytest.raises(AssertionError, match="backend openmp cannot run here: no C compiler found"):
        test_backend_can_run("openmp")
    monkeypatch.setenv("REFSTACK_TEST_WITHOUT_COMPILER", "1")
    with pytest.raises(pytest.skip.Exception, match="backend openmp cannot run: no C compiler found"):
        test_backend_can_run("openmp")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_kernel(row: Kernel) -> None:
    """Inside the bound or bitwise, on hostile buffers, the same bits with 2 or 3 threads (harness.examine)."""
    assert families(row), f"{row.name}: no drawn case is accepted, so it was never run"
    ran: list[int] = []

    @given(problems(row))
    def check(problem: Problem) -> None:
        outcome = examine(row, problem, threads=(1, 2 + problem.seed % 2))
        assert not outcome.problem, f"{row.name} on {problem}: {outcome.problem}"
        ran.append(outcome.compared)

    check()
    assert len(ran) >= LEAST_EXAMPLES, f"{row.name} was run {len(ran)} times only"
    assert sum(ran) > 0, f"{row.name}: nothing was compared"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_kernel_with_every_fill(row: Kernel) -> None:
    """Each fill once with 1, 2 and 3 threads, without leaving it to chance."""
    drawn, wanted = seeded(row, len(fills(row.op, row.format)), seed=1), set(fills(row.op, row.format))
    if row.refusal(replace(drawn[0].case, density=0.0)):  # impulses are one weight a filter
        wanted -= {"impulse"}
    assert {problem.fill for problem in drawn} == wanted
    for problem in drawn:
        outcome = examine(row, problem)
        assert not outcome.problem, f"{row.name} on {problem}: {outcome.problem}"


@pytest.mark.parametrize("test", [test_kernel, test_kernel_with_every_fill])
def test_that_every_row_is_tested(test: pytest.MarkDecorator) -> None:
    """The rows that the tests were generated from are the registry."""
    tested = [row.name for row in test.pytestmark[0].args[1]]
    usable = [name for name in BACKENDS if not backend(name).unavailable()]
    registered = [row.name for name in usable for row in backend(name).kernels()]
    assert sorted(tested) == sorted(registered)
    assert len(set(registered)) == len(registered), "two rows have one name"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_simplest_choices_are_few(row: Kernel) -> None:
    """What hypothesis tries first must not be long, also where a row refuses it: it would call the test unhealthy."""
    simplest = Recorder(Replay(()))
    draw(row, simplest)
    assert 0 < len(simplest.trail) < 200, f"{row.name}: {len(simplest.trail)} choices"


def test_that_a_row_nobody_can_run_fails() -> None:
    """A row that refuses everything must not pass for want of cases."""
    idle = Kernel("relu", "float32", "numpy", "idle", None, needs=(lambda case: "never",))
    with pytest.raises(AssertionError, match=r"relu\.float32\.numpy\.idle: no drawn case is accepted"):
        test_kernel(idle)
