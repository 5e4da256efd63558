"""`verify` as a whole: children that may die, verdicts, the smallest failing case, profiles, networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from refstack.backends import BACKENDS, Step, backend
from refstack.errors import RefstackError, UsageError
from refstack.kernels import Kernel
from refstack.reference import layer
from refstack.verification import sensitivity, verify, verify_model
from refstack.verification.cases import Problem, Seeded, parse_problem
from refstack.verification.choices import Recorder, Replay, Small, simpler
from refstack.verification.examiner import Examiner, Finding, in_process
from refstack.verification.harness import attempt, draw
from refstack.verification.layers import real_problems
from refstack.verification.saboteurs import Saboteur, honest_row, saboteurs
from refstack.verification.taps import taps
from refstack.verification.verdicts import problems, verdict


def test_every_registered_kernel_between_guard_pages() -> None:
    """The suite that CI rests on: all rows, in children, 36 problems each, and every saboteur caught on the way."""
    found = verify()
    usable = [name for name in BACKENDS if not backend(name).unavailable()]
    registered = [row.name for name in usable for row in backend(name).kernels()]
    assert [each.kernel for each in found if each.state != "SKIP"] == registered
    for each in found:
        assert each.state in ("PASS", "SKIP"), each
    assert all(each.cases == 36 and each.compared > 0 for each in found if each.state == "PASS")
    assert max(each.rms for each in found) > 0.5, "nothing was held against the textbook loop"


def test_sensitivity() -> None:
    assert len(saboteurs()) >= 12
    assert sensitivity(seed=3) == ([], len(saboteurs()))


def test_saboteurs_are_caught_as_is_meant_for_them() -> None:
    """A harness on which everything crashes has caught nothing."""

    def crashing(row: Kernel, problem: Problem) -> Finding:
        return Finding("CRASH", "always")

    missed, count = sensitivity(examine=crashing)
    assert missed == [*(each.name for each in saboteurs() if each.caught == "FAIL"), "honest"]
    assert count == len(saboteurs())


def test_blind_checker_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a saboteur gets away, no kernel has passed."""
    monkeypatch.setattr("refstack.verification.verdicts.saboteurs", lambda: (Saboteur(honest_row()),))
    (found,) = verify("relu.float32.numpy.*", backends=["numpy"])
    assert found.state == "INCONCLUSIVE"
    assert found.reason == "checker sensitivity 0/1: honest got away"


def test_verify_repeats_itself() -> None:
    found = verify("*pool*", seed=1, backends=["numpy"])
    assert {each.kernel for each in found} == {
        "maxpool.float32.numpy.reference", "maxpool.int8.numpy.reference", "avgpool.float32.numpy.reference",
        "globalavgpool.float32.numpy.reference",
    }  # fmt: skip
    assert all(each.state == "PASS" and each.cases == 36 and each.compared > 0 for each in found)
    again = verify("*pool*", seed=1, backends=["numpy"])
    assert [replace(each, seconds=0) for each in found] == [replace(each, seconds=0) for each in again]


def test_verify_skips_a_backend_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend("blas"), "unavailable", lambda: "no scipy")
    found = verify("relu.*", backends=["blas", "numpy"])
    assert [(each.kernel, each.state, each.reason) for each in found] == [
        ("*.blas.*", "SKIP", "no scipy"),
        ("relu.float32.numpy.reference", "PASS", ""),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": "conv9d"}, "no kernel is called 'conv9d'; `refstack kernels` lists them"),
        ({"profile": "slow"}, "profile 'slow', wanted one of quick, full"),
        ({"threads": [0]}, r"threads \[0\], wanted whole numbers of at least 1"),
        ({"threads": []}, r"threads \[\], wanted whole numbers"),
        ({"case": "conv2d"}, "'conv2d' is no op.format"),
        ({"kernels": "relu.*", "case": "add.float32:n1c1xn1c1"}, r"no kernel that 'relu.\*' names takes add.float32"),
    ],
)
def test_verify_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        verify(**{"backends": ["numpy"], **arguments})  # type: ignore[arg-type]


def test_one_case() -> None:
    """A word and a seed are one problem; a row that does not take it says why."""
    word = "conv2d.dense:n1c3h8w8_k4r3s3_st1pd1g1@normal"
    found = verify("conv2d.dense.*", 3, backends=["blas"], case=word)
    assert [(each.kernel, each.state, each.cases) for each in found] == [
        ("conv2d.dense.blas.depthwise", "SKIP", 0),
        ("conv2d.dense.blas.gemm", "PASS", 1),
    ]
    assert found[0].reason.startswith("does not take this case: groups, channels and filters")


def wrong_last_column(step: Step) -> None:
    """Right but for the last of five columns or more."""
    y = layer(step.node, *step.inputs)
    if y.shape[3] >= 5:
        y[..., -1] = 0
    step.output[...] = y


PLANTED = Kernel("conv2d", "dense", "numpy", "planted", wrong_last_column, blocks=(4,))


@pytest.mark.parametrize("seed", range(3))
def test_failing_case_is_made_small(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refstack.verification.verdicts.SHRINK_S", 120)  # a busy machine gets there too
    found = verdict(PLANTED, seed=seed)
    assert found.state == "FAIL"
    assert found.seed is not None
    smallest = parse_problem(found.case, found.seed)
    n, k, p, q = smallest.case.shape
    assert (n, k, p, q) == (1, 1, 1, 5), found.case
    assert in_process(PLANTED, smallest).state == "FAIL", "what is printed fails again"


def test_taps_are_named() -> None:
    problem = parse_problem("conv2d.dense:n1c2h1w5_k1r1s1_st1pd0g1@integer", 4)
    told = taps(PLANTED, problem)
    assert told.startswith("with all else zero y[0,0,0,4] is 0.0 instead of "), told
    assert told.count("x[0,") == 1
    assert told.count("w[0,") == 1
    assert taps(honest_row(), problem) == ""


def test_taps_of_a_kernel_that_writes_nothing() -> None:
    idle = Kernel("conv2d", "dense", "numpy", "idle", lambda step: None)
    told = taps(idle, parse_problem("conv2d.dense:n1c1h1w1_k1r1s1_st1pd0g1@integer", 0))
    assert told.startswith("even with x and w all zero y[0,0,0,0] is nan instead of ")


def test_replayed_choices_draw_the_same_problem() -> None:
    for row in backend("numpy").kernels():
        for seed in range(5):
            problem = draw(row, Seeded(seed))
            assert problem is not None
            recorder = Recorder(Replay(problem.trail))
            assert attempt(row, recorder) == problem
            assert tuple(recorder.trail) == problem.trail


def test_simpler_choices() -> None:
    tried = list(simpler((4, 0, 1)))
    assert tried == [(0, (0, 0, 1)), (0, (2, 0, 1)), (0, (3, 0, 1)), (2, (4, 0, 0))]
    assert next(simpler((4, 1), start=1)) == (1, (4, 0))
    small = Small(1, 0)
    assert {small.integer(3, 9) for _ in range(50)} == {3, 4}


def test_words_are_problems() -> None:
    """What is sent to the child, and printed, is the whole problem."""
    for row in backend("numpy").kernels():
        for problem in problems(row, 12, seed=5):
            assert parse_problem(problem.word, problem.seed) == problem


def crash(kind: str) -> Callable[[Kernel, Problem], Finding]:
    return lambda row, problem: Finding(kind)  # type: ignore[arg-type]


def test_a_timeout_is_not_tried_again_and_again() -> None:
    asked: list[Problem] = []

    def slow(row: Kernel, problem: Problem) -> Finding:
        asked.append(problem)
        return Finding("TIMEOUT", "no answer within 30 s")

    found = verdict(honest_row(), examine=slow)
    assert (found.state, len(asked)) == ("TIMEOUT", 1)


def test_problems_that_tell_nothing_are_inconclusive() -> None:
    found = verdict(honest_row(), examine=lambda row, problem: Finding("PASS", compared=7, telling=False))
    assert found.state == "INCONCLUSIVE"
    assert found.reason == "36 problems were accepted, 0 of them telling, and 252 values compared: that proves little"


def test_zeros_everywhere_tell_nothing() -> None:
    zeros = parse_problem("conv2d.csr:n1c1h4w4_k2r1s1_st1pd0g1_d0.00_nobias@integer", 0)
    (row,) = (each for each in backend("numpy").kernels() if each.name == "conv2d.csr.numpy.reference")
    found = in_process(row, zeros)
    assert (found.state, found.telling) == ("PASS", False)


def test_the_child_lives_on_after_a_crash() -> None:
    overruns = next(each.row for each in saboteurs() if each.name == "overruns")
    problem = problems(honest_row(), 1, 0)[0]
    with Examiner() as examiner:
        crashed = examiner(overruns, problem)
        assert crashed.state == "CRASH"
        assert "SIGSEGV; with margins instead of guard pages: bytes beside output were written to" in crashed.reason
        assert examiner(honest_row(), problem).state == "PASS"


def test_a_read_too_far_is_named() -> None:
    beyond = next(each.row for each in saboteurs() if each.name == "reads_beyond")
    with Examiner() as examiner:
        assert "it reads outside its buffers" in examiner(beyond, problems(honest_row(), 1, 0)[0]).reason


def test_a_kernel_that_the_child_does_not_know_is_no_verdict() -> None:
    with (
        Examiner() as examiner,
        pytest.raises(RefstackError, match="no kernel is called"),
    ):
        examiner(PLANTED, problems(honest_row(), 1, 0)[0])


def test_real_layers() -> None:
    """Full size layers of the three networks, for the rows that take them."""
    rows = {row.name: row for row in backend("numpy").kernels()}
    found = real_problems(rows["conv2d.csr.numpy.reference"], 0)
    words = [problem.case.word for problem in found]
    assert "conv2d.csr:n1c64h32w32_k64r3s3_st1pd1g1_d0.10_relu" in words
    assert len(words) == len(set(words)) > 20
    assert {problem.fill for problem in found} >= {"integer", "impulse", "normal"}
    assert all("_to-int8" in p.case.word for p in real_problems(rows["linear.int8.numpy.reference"], 0))


@pytest.mark.parametrize(("row", "seed"), [("linear.dense.blas.gemm", 0), ("linear.int8.numpy.reference", 7)])
def test_full_profile_adds_the_real_layers(row: str, seed: int) -> None:
    """With seed 7 a classifier's outputs are all 127: that tells nothing, and takes nothing from the drawn problems."""
    (found,) = verify(row, backends=[row.split(".")[2]], profile="full", seed=seed)
    assert found.state == "PASS", found
    assert found.cases > 300


@pytest.mark.parametrize("technique", ["dense", "int8"])
def test_network(technique: str) -> None:
    found = verify_model("mobilenet", technique, ["blas"])
    assert found.check.passed
    assert found.reference_error < 1e-5 * found.check.logit_scale
    assert found.check.logit_error < 1e-5 * found.check.logit_scale
    assert np.isfinite(found.check.output).all()
