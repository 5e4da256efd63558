"""tune: the fastest right row wins, a wrong one never, and nothing is changed that does not help the whole network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tuned
from benching import FAST, Notes
from tuned import HONEST, clock, rows

import refstack as rs
from refstack import checkpoint
from refstack.backends import Step
from refstack.benchmark import bench, choices, tuning
from refstack.errors import CheckFailed, UsageError

A = "conv2d.dense:n1c3h8w8_k8r3s3_st1pd1g1_relu"
B = "conv2d.dense:n1c8h8w8_k8r3s3_st1pd1g1_relu"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint, and a tuning file of this test's own."""
    monkeypatch.setenv("REFSTACK_TUNING_FILE", str(tmp_path / "kept" / "tuning.json"))
    checkpoint.save(tuned.network(), tmp_path / "tuned.safetensors")
    return str(tmp_path / "tuned.safetensors")


def tune(model: str) -> tuning.Tuning:
    (outcome,) = rs.tune(model, "dense", "numpy")
    return outcome


def test_a_slow_first_row_loses(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, {"slow": HONEST, "fast": HONEST, "middling": HONEST})
    clock(monkeypatch, {"slow": 1000, "fast": 200, "middling": 500})
    outcome = tune(model)
    assert list(outcome.layers.values()) == [["a"], ["b", "c"], ["fc"]]
    for case in (A, B):
        found = outcome.found[case]
        assert (found.default, found.kernel) == ("conv2d.dense.numpy.slow", "conv2d.dense.numpy.fast")
        times = {name.rpartition(".")[2]: us for name, us in found.times_us.items()}
        assert times == {"slow": 1.0, "fast": 0.2, "middling": 0.5}
        assert found.measured_utc
    assert outcome.gain == pytest.approx(3003 / 603, rel=0.01)
    assert [record["gain"] for record in outcome.records()] == pytest.approx([5, 5, 1])

    kept = rs.tuned("numpy", 1)
    assert kept == dict.fromkeys((A, B), "conv2d.dense.numpy.fast")
    graph = rs.load(model)
    plan = rs.plan(graph, 1, "numpy", tuned=kept)
    assert [plan.choices[name].kernel.variant for name in "abc"] == ["fast"] * 3
    assert plan.tuned == 3
    untuned = rs.plan(graph, 1, "numpy")
    assert untuned.choices["a"].kernel.variant == "slow"
    assert untuned.tuned == 0
    assert rs.tuned("numpy", 2) == rs.tuned("blas", 1) == {}, "of other threads and backends nothing is known"


def test_a_fast_first_row_stays(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, {"fast": HONEST, "slow": HONEST})
    timed = clock(monkeypatch, {"fast": 200, "slow": 1000})
    outcome = tune(model)
    assert [outcome.found[case].kernel for case in (A, B)] == ["conv2d.dense.numpy.fast"] * 2
    assert rs.tuned("numpy", 1) == {}
    assert outcome.gain == 1
    assert sum("slow" in names for names in timed) == 1, "a hopeless row is measured once"


def test_a_gain_within_the_noise_changes_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, {"first": HONEST, "second": HONEST})
    clock(monkeypatch, {"first": 1000, "second": 980})
    assert tune(model).found[A].kernel == "conv2d.dense.numpy.first"


def wrong(step: Step) -> None:
    step.output[0, 0, 0, 0] += 1


def test_a_wrong_row_never_wins(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, {"slow": HONEST, "wrong": wrong, "fast": HONEST})
    timed = clock(monkeypatch, {"slow": 1000, "wrong": 1, "fast": 200})
    outcome = tune(model)
    for case in (A, B):
        found = outcome.found[case]
        assert found.kernel == "conv2d.dense.numpy.fast"
        assert "of the bound at (0, 0, 0, 0)" in found.left_out["conv2d.dense.numpy.wrong"]
        assert "conv2d.dense.numpy.wrong" not in found.times_us
    assert not any("wrong" in names for names in timed), "what was not checked is not timed"
    assert choices.kept("numpy", 1)[A].left_out == outcome.found[A].left_out


def test_a_row_that_is_wrong_on_one_problem_may_win_on_another(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def partly(step: Step) -> None:
        if step.case.inputs[0][1] == 8:
            wrong(step)

    rows(monkeypatch, {"slow": HONEST, "partly": partly})
    clock(monkeypatch, {"slow": 1000, "partly": 1})
    found = tune(model).found
    assert [found[case].kernel.rpartition(".")[2] for case in (A, B)] == ["partly", "slow"]


def test_a_row_that_does_not_repeat_itself_never_wins(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every output is inside its bound, but the plan as a whole gives other bits than its steps."""
    calls = [0]

    def fickle(step: Step) -> None:
        calls[0] += 1
        if calls[0] % 5 == 0:
            step.output[...] = np.nextafter(step.output, np.float32(np.inf))

    rows(monkeypatch, {"slow": HONEST, "fickle": fickle})
    clock(monkeypatch, {"slow": 1000, "fickle": 1})
    found = tune(model).found[B]
    assert found.kernel == "conv2d.dense.numpy.slow"
    assert "differs from its steps" in found.left_out["conv2d.dense.numpy.fickle"]


def test_a_wrong_default_is_no_matter_of_choice(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, {"wrong": wrong, "right": HONEST})
    clock(monkeypatch, {})
    with pytest.raises(CheckFailed, match=r"FAILED a conv2d\.dense\.numpy\.wrong"):
        tune(model)
    assert rs.tuned("numpy", 1) == {}


def test_a_default_that_is_wrong_later_on_is_an_error_too(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that stay the default's are checked again in every plan, and none of them is left out for it."""
    rows(monkeypatch, {"slow": HONEST, "fast": HONEST})
    clock(monkeypatch, {"slow": 1000, "fast": 200})
    honest = tuning.check_plan

    def check(made: rs.Plan, *rest: object) -> object:
        found = honest(made, *rest)  # type: ignore[arg-type]
        if made.tuned:
            layers = tuple(replace(each, worst=9.0) if each.name == "fc" else each for each in found.layers)
            return replace(found, layers=layers)
        return found

    monkeypatch.setattr(tuning, "check_plan", check)
    with pytest.raises(CheckFailed, match="FAILED fc "):
        tune(model)


@pytest.mark.parametrize("second", [1200, 995])
def test_what_makes_the_whole_network_no_faster_is_dropped(
    model: str, monkeypatch: pytest.MonkeyPatch, second: int
) -> None:
    rows(monkeypatch, {"first": HONEST, "second": HONEST})
    clock(monkeypatch, {"first": 1000, "second": 500}, whole={"first": 1000, "second": second})
    outcome = tune(model)
    assert set(outcome.dropped) == {A, B}
    assert outcome.found[A].kernel == outcome.found[A].default == "conv2d.dense.numpy.first"
    assert outcome.found[A].times_us["conv2d.dense.numpy.second"] == 0.5, "the times are kept all the same"
    assert outcome.gain == 1
    assert rs.tuned("numpy", 1) == {}


def test_times_of_the_real_clock(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which row wins is the machine's business; that there are times, and that they are kept, is not."""
    rows(monkeypatch, {"one": HONEST, "two": HONEST})
    monkeypatch.setattr(tuning, "STEPS_S", 0.0)
    monkeypatch.setattr(tuning, "WHOLE_S", 0.0)
    notes = Notes()
    (outcome,) = rs.tune(model, "dense", "numpy", report=notes)
    assert all(us > 0 for us in outcome.found[A].times_us.values())
    assert outcome.default_ms > 0
    assert choices.kept("numpy", 1) == outcome.found
    assert notes.done == notes.total == 1


def test_networks_and_threads_are_kept_beside_each_other(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, {"slow": HONEST, "fast": HONEST})
    clock(monkeypatch, {"slow": 1000, "fast": 200})
    outcomes = rs.tune(model, ["dense", "half"], "numpy", [1, 2])
    assert [(each.technique, each.threads) for each in outcomes] == [
        ("dense", 1), ("dense", 2), ("half", 1), ("half", 2),
    ]  # fmt: skip
    assert set(rs.tuned("numpy", 2)) == {A, B}
    assert {word.partition(":")[0] for word in choices.kept("numpy", 1)} >= {"conv2d.dense", "conv2d.half"}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"models": "nothing"}, "unknown model 'nothing'"),
        ({"techniques": "prune"}, "unknown technique 'prune'"),
        ({"backends": "gpu"}, "unknown backend 'gpu'"),
        ({"threads": 0}, "threads: got 0"),
        ({"batch": 0}, "batch: got 0"),
    ],
)
def test_bad_requests(model: str, ask: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rs.tune(**{"models": model, **ask})  # type: ignore[arg-type]


def test_bench_says_what_was_tuned_and_mixes_no_rows(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Children have rows of their own: the file names one that the blas backend has behind its first."""
    ask = {"backends": ["blas"], "threads": 1, "output": tmp_path / "j.jsonl", "policy": FAST}
    (plain,) = bench(model, ["dense"], **ask)
    assert plain["tuned"] == 0
    kernel, default = "conv2d.dense.numpy.reference", "conv2d.dense.blas.gemm"
    found = choices.Found(kernel, default, {kernel: 1.0, default: 2.0}, {}, "now")
    choices.keep("blas", 1, {B: found, B.replace("h8w8", "h9w9"): found})
    (row,) = bench(model, ["dense"], **ask)
    assert (row["tuned"], row["kernels"][kernel]) == (2, 2)
    assert row["cell_id"] != plain["cell_id"]
    (again,) = bench(model, ["dense"], tuned=False, **ask)
    assert again == plain, "the row before is still the answer to what was asked before"
    choices.keep("blas", 1, {A.replace("h8w8", "h9w9"): found})
    assert bench(model, ["dense"], **ask) == [row], "another network's choices are no matter of this one"
