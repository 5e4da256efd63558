"""Every fault written down in tools/mutation/hand.py is found out, and none is found where there is none.

A mutant counts as killed only if it compiled, was loaded and called. More: docs/mutation.md
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
from mutation import hand
from mutation.coverage import unreached
from mutation.hand import Mutant
from mutation.tree import C, Change, Result, by_rows, by_tests

from refstack.backends import openmp

FLAGS = "-Og"  # half a second instead of three for the register tiles
UNITS = sorted({mutant.unit for mutant in hand.KERNELS})
TESTS = sorted({test for mutant in hand.PYTHON for test in mutant.tests})

needs_compiler = pytest.mark.skipif(openmp.unavailable() is not None, reason=str(openmp.unavailable()))


def trial(subject: Mutant | str) -> Result:
    """What becomes of a mutant, of a C file as it is, or of tests on refstack as it is."""
    if isinstance(subject, Mutant):
        if subject.tests:
            return by_tests(subject.change, subject.tests, FLAGS)
        return by_rows(subject.change, [subject.unit], subject.rows, flags=FLAGS)
    if subject in UNITS:
        return by_rows(Change(f"{C}/{subject}"), [subject], "*", examples=20, flags=FLAGS)
    return by_tests(Change("refstack/__init__.py"), TESTS, FLAGS)


@pytest.fixture(scope="module")
def trials(request: pytest.FixtureRequest) -> Iterator[dict[object, Future[Result]]]:
    """The trials of all tests that were asked for, side by side."""
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    subjects = [call["subject"] for call in calls if "subject" in call]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {subject: pool.submit(partial(trial, subject)) for subject in subjects}


@needs_compiler
@pytest.mark.parametrize("subject", hand.KERNELS, ids=lambda mutant: mutant.number)
def test_wrong_kernel_is_refused(subject: Mutant, trials: dict[object, Future[Result]]) -> None:
    result = trials[subject].result()
    assert result.state == "killed", f"{subject.number}: {subject.what} got away: {result}"


@pytest.mark.parametrize("subject", hand.PYTHON, ids=lambda mutant: mutant.number)
def test_wrong_python_is_found(subject: Mutant, trials: dict[object, Future[Result]]) -> None:
    result = trials[subject].result()
    assert result.state == "killed", f"{subject.number}: {subject.what} got away: {result}"


@needs_compiler
@pytest.mark.parametrize("subject", UNITS)
def test_right_kernels_pass_the_same_trial(subject: str, trials: dict[object, Future[Result]]) -> None:
    """The positive control: the files as they are, on the very same way."""
    assert trials[subject].result().state == "survived", trials[subject].result()


@pytest.mark.parametrize("subject", ["tests"])
def test_right_python_passes_the_same_trial(subject: str, trials: dict[object, Future[Result]]) -> None:
    assert trials[subject].result().state == "survived", trials[subject].result()


def test_the_list_is_complete() -> None:
    """Every number of the plan is here, or its absence is explained."""
    words = [mutant.number for mutant in hand.ALL]
    assert len(set(words)) == len(words)
    assert {int(re.match(r"\d+", mutant.number)[0]) for mutant in (*hand.KERNELS, *hand.PYTHON)} >= set(range(1, 56))
    assert len(hand.KERNELS) + len(hand.PYTHON) + len(hand.SANITIZED) == len(hand.ALL)
    assert all(hand.NOT_YET.values())


def test_a_mutant_out_of_date_is_an_error() -> None:
    for old, count in (("no such text", 0), ("for (", 10)):
        with pytest.raises(LookupError, match=rf"maxpool.c holds '{re.escape(old)}' {count} times, wanted once"):
            by_rows(Change(f"{C}/maxpool.c", old, ""), ["maxpool.c"], "*")


@needs_compiler
def test_what_did_not_run_is_not_killed() -> None:
    """A mutant that does not compile, and one whose rows are not there."""
    broken = by_rows(Change(f"{C}/maxpool.c", "int first = 1;", "int first = ;"), ["maxpool.c"], "*", flags=FLAGS)
    assert (broken.state, "expected expression" in broken.by) == ("refused", True)
    assert by_rows(Change(f"{C}/maxpool.c"), ["maxpool.c"], "softmax.*", flags=FLAGS).state == "idle"


def test_tests_that_did_not_run_kill_nothing() -> None:
    missing = by_tests(Change("refstack/compare.py"), ["tests/test_compare.py::test_no_such_test"], FLAGS)
    assert missing.state == "idle", missing


@needs_compiler
@pytest.mark.parametrize(
    ("body", "by"),
    [("__builtin_trap();", "CRASH maxpool.float32.*SIG(ILL|TRAP)"), ("for (volatile int i = 0;; i++);", "TIMEOUT")],
)
def test_crash_and_hang_are_killed(body: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutation.tree.SECONDS", 2)
    change = Change(f"{C}/maxpool.c", "int first = 1;", f"int first = 1; {body}")
    result = by_rows(change, ["maxpool.c"], "maxpool.float32.*", flags=FLAGS)
    assert result.state == "killed"
    assert re.match(by, result.by), result


@needs_compiler
@pytest.mark.skipif(shutil.which("gcov") is None, reason="gcov is not installed")
def test_every_line_of_every_kernel_runs() -> None:
    """A mutant that only sends work another way survives; here is shown that every way is gone."""
    assert unreached() == {}
    few = unreached(examples=1)
    assert any(few.values()), "one problem a row cannot reach every line"
