"""A cell lives in a process of its own: whatever it does, it is a row, and nothing wrong is ever timed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from benching import CELL, FAST, TRUSTED, planted, tiny

from refstack.benchmark import machine, rounds, worker
from refstack.benchmark.artifacts import Artifact, make
from refstack.benchmark.rounds import Policy


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8)
    return make("tiny", tiny(), "dense", images, tmp_path)


def test_an_honest_cell_is_checked_and_timed(artifact: Artifact) -> None:
    (run,) = rounds.measure([(CELL, artifact)], FAST, 1)
    assert (run.status, run.reason) == ("ok", None)
    assert len(run.samples_ns) >= FAST.rounds
    assert min(run.samples_ns) > 0
    assert 0 < run.facts["max_error_vs_bound"] <= 1
    assert run.facts["n_checked"] == 3
    assert run.facts["kernels"]["linear.dense.numpy.reference"] == 1
    if run.facts["peak_rss_bytes"] is not None:
        assert run.facts["peak_rss_bytes"] >= run.facts["baseline_rss_bytes"] > 1 << 20


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("step.output[...] *= 1.001", "failed", "CheckFailed: FAILED fc linear.dense.numpy.reference"),
        ("step.output[0, 0] = float('nan')", "failed", "CheckFailed: FAILED fc linear.dense.numpy.reference"),
        ("if calls > 4: step.output[...] += 1", "failed", "differs from the checked one"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "failed", "crashed with SIGSEGV"),
        ("os._exit(7)", "failed", "ended with exit status 7"),
        ("raise ValueError('broken row')", "failed", "exit status 1: ValueError: broken row"),
        ("time.sleep(1000)", "timeout", "no answer within 2 s"),
        ("if calls > 4: time.sleep(1000)", "timeout", "no answer within 2 s"),
        ("raise MemoryError", "failed", "ResourceError: no memory left"),
    ],
)
def test_a_bad_kernel_is_a_row_without_times(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, fault: str, status: str, reason: str
) -> None:
    monkeypatch.setattr(worker, "COMMAND", planted(fault))
    slow = status == "timeout"
    policy = replace(FAST, load_timeout_s=2 if slow and "calls" not in fault else 60, time_timeout_s=2 if slow else 20)
    (run,) = rounds.measure([(CELL, artifact)], policy, 1)
    assert run.status == status
    assert reason in str(run.reason)
    assert run.samples_ns == []


def test_a_kernel_that_prints_does_not_disturb(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMMAND", planted("print('hello'); os.write(1, b'world')"))
    (run,) = rounds.measure([(CELL, artifact)], FAST, 1)
    assert run.status == "ok", run.reason


def test_one_bad_cell_does_not_stop_the_others(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, count = planted("os._exit(7)"), 0
    start = worker.Worker.__init__

    def second_is_bad(self: worker.Worker, threads: int) -> None:
        nonlocal count
        count += 1
        monkeypatch.setattr(worker, "COMMAND", bad if count == 2 else TRUSTED)
        start(self, threads)

    monkeypatch.setattr(worker.Worker, "__init__", second_is_bad)
    runs = rounds.measure([(CELL, artifact)] * 3, FAST, 2)
    assert [run.status for run in runs] == ["ok", "failed", "ok"]
    assert all(run.samples_ns for run in runs if run.status == "ok")


def test_rounds_interleave_and_slow_cells_sit_out_evenly() -> None:
    slow = rounds.Run(CELL, None, facts={"run_ns": 500_000_000})
    quick = rounds.Run(CELL, None, facts={"run_ns": 1_000_000})
    policy = Policy(rounds=12, block_ms=40, cell_s=3, min_rounds=3)
    taken = [turn for turn in range(12) if rounds._takes_part(slow, turn, policy)]
    assert taken == [1, 3, 5, 7, 9, 11]
    assert all(rounds._takes_part(quick, turn, policy) for turn in range(12))


def test_a_cell_of_one_thread_takes_turns_on_all_processors(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[list[int]]] = {}
    honest = rounds._try

    def watched(run: rounds.Run, do: str, *rest: object, **arguments: int) -> dict[str, object]:
        if do == "time":
            assert run.worker is not None
            seen.setdefault(run.cell.threads, []).append(psutil.Process(run.worker._process.pid).cpu_affinity())
        return honest(run, do, *rest, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds, "_try", watched)
    runs = rounds.measure([(CELL, artifact), (replace(CELL, threads=2), artifact)], replace(FAST, rounds=4), 1)
    near, allowed = machine.neighbours(psutil.Process()), sorted(os.sched_getaffinity(0))
    assert seen[1] == [[near[turn % len(near)]] for turn in range(4)]
    assert seen[2] == [allowed] * 4
    assert [run.status for run in runs] == ["ok", "ok"]


def test_a_dead_childs_last_words_are_told() -> None:
    with worker.Worker(1) as child:
        with pytest.raises(worker.ChildFailed, match="unknown command 'dance'"):
            child.ask("dance", 20)
        child.close()
        child.close()
