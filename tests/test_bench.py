"""Bench: what is timed was checked, what was finished is kept, and what went wrong is a row that says so."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from benching import CELL, FAST, TRUSTED, Notes, planted, strict_loads, tiny

from refstack import checkpoint
from refstack.benchmark import accuracy, artifacts, bench, machine, worker
from refstack.benchmark.artifacts import Artifact, source
from refstack.benchmark.cells import Cell, sweep
from refstack.benchmark.journal import Journal
from refstack.errors import BackendUnavailable, FormatError, UsageError
from refstack.graph import Graph


@pytest.fixture
def network(tmp_path: Path) -> str:
    """Path of a small checkpoint."""
    checkpoint.save(tiny(), tmp_path / "tiny.safetensors")
    return str(tmp_path / "tiny.safetensors")


# Cells


def test_a_cells_id_depends_on_everything_that_is_asked() -> None:
    ids = [CELL.id("sha", "env", False), CELL.id("other", "env", False), CELL.id("sha", "other", False)]
    ids.append(CELL.id("sha", "env", True))
    for field in fields(Cell):
        value = getattr(CELL, field.name)
        changed = replace(CELL, **{field.name: value + 1 if isinstance(value, int) else f"{value}x"})
        ids.append(changed.id("sha", "env", False))
    assert len(set(ids)) == len(ids) == 9
    assert CELL.id("sha", "env", False) == Cell("tiny", "dense", "numpy", 1, 1).id("sha", "env", False)


def test_sweep_takes_every_combination_and_numpy_once() -> None:
    cells = sweep(["a", "b"], ["dense", "int8"], ["openmp", "blas", "numpy"], [2, 1], 1)
    assert len(cells) == len(set(cells)) == 2 * 2 * (2 + 2 + 1)
    assert {cell.threads for cell in cells if cell.backend == "numpy"} == {1}


# Machine


def test_the_environment_is_the_same_twice_and_plain_json() -> None:
    first, second = machine.environment(), machine.environment()
    assert first == second
    assert strict_loads(json.dumps(first, allow_nan=False)) == first
    missing = {"cpu", "caches_bytes", "threads_allowed", "compiler", "compiler_flags", "blas", "code"} - set(first)
    assert not missing


def test_another_compiler_is_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.environment()["key"]
    monkeypatch.setenv("REFSTACK_CFLAGS", "-DELSEWHERE")
    assert machine.environment()["key"] != before


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_a_containers_quota(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: float | None) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: files.get(str(path).removeprefix("/sys/fs/cgroup/")))
    assert machine._cgroup_cpus() == cpus
    assert machine.threads_allowed() == (1 if cpus else len(os.sched_getaffinity(0)))


def test_roofs_are_measured_and_plausible() -> None:
    from refstack.backends import openmp
    from refstack.backends.roofs import measure

    reason = openmp.unavailable()
    if reason:
        pytest.skip(f"openmp: {reason}")
    roof = measure(1)
    assert roof["threads"] == 1
    assert 1e8 < roof["flops"] < 1e13
    assert 1e8 < roof["read_bytes_per_s"] < 1e13
    assert roof["read_bytes"] == 128 << 20
    small = measure(1, 5000)
    assert small["read_bytes"] == 8192
    assert small["read_bytes_per_s"] > roof["read_bytes_per_s"] / 2


# The verb


def test_bench_measures_resumes_and_starts_afresh(network: str, tmp_path: Path) -> None:
    output, notes = tmp_path / "j.jsonl", Notes()
    ask = {"backends": ["numpy", "blas"], "threads": 1, "output": output, "policy": FAST}
    first = bench(network, ["dense", "weight"], report=notes, **ask)
    assert [row["status"] for row in first] == ["ok"] * 4
    assert notes.done == pytest.approx(notes.total)
    assert any(str(output) in text for text in notes.said)
    expected = {
        "schema_version", "status", "status_reason", "model", "technique", "format", "backend", "threads", "batch",
        "latency_p50_ms", "latency_p90_ms", "samples_ns", "top1", "top1_n", "top1_source", "stored_bytes",
        "planned_bytes", "peak_rss_bytes", "macs", "nnz", "max_error_vs_bound", "artifact_sha256", "env", "weights",
        "params", "level", "fallbacks", "kernels", "n_checked", "logit_error", "baseline_rss_bytes", "quick",
        "created_utc", "cell_id", "refstack_version",
    }  # fmt: skip
    for row in first:
        assert not expected - set(row)
        assert 0 < row["latency_p50_ms"] <= row["latency_p90_ms"]
        assert row["top1"] is None
        assert row["top1_reason"] == "weights are drawn, not trained"
    assert {row["format"][:3] for row in first if row["technique"] == "weight"} == {"csr"}

    written = output.read_bytes()
    again = bench(network, ["dense", "weight"], report=notes, **ask)
    assert again == first
    assert output.read_bytes() == written
    assert any("4 of 4 cells are in the journal" in text for text in notes.said)

    bench(network, ["dense"], fresh=True, **ask)
    assert len(output.read_bytes().splitlines()) == 2
    (aside,) = tmp_path.glob("j-*.jsonl")
    assert aside.read_bytes() == written

    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(FormatError, match="not a journal"):
        bench(network, "dense", output=tmp_path / "notes.md", fresh=True)
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_rows_of_another_machine_are_kept_apart(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = {"techniques": "dense", "backends": "numpy", "output": tmp_path / "j.jsonl", "policy": FAST}
    bench(network, **ask)
    monkeypatch.setattr(machine, "cpu_model", lambda: "another processor")
    (row,) = bench(network, **ask)
    assert row["env"]["cpu"] == "another processor"
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len({row["cell_id"] for row in journal.rows}) == len(journal.rows) == 2
        assert len({row["env"]["key"] for row in journal.rows}) == 2


def test_quick_rows_are_marked_and_never_taken_for_full_ones(network: str, tmp_path: Path) -> None:
    ask = {"techniques": "dense", "backends": "numpy", "output": tmp_path / "j.jsonl"}
    (quick,) = bench(network, quick=True, **ask)
    (full,) = bench(network, policy=FAST, **ask)
    assert (quick["quick"], full["quick"]) == (True, False)
    assert quick["cell_id"] != full["cell_id"]


def test_a_planted_fault_is_refused_and_retried_next_time(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = {"techniques": "dense", "backends": "numpy", "output": tmp_path / "j.jsonl", "policy": FAST}
    monkeypatch.setattr(worker, "COMMAND", planted("step.output[...] *= 1.001"))
    (row,) = bench(network, **ask)
    assert row["status"] == "failed"
    assert "FAILED fc linear.dense.numpy.reference" in row["status_reason"]
    assert row["samples_ns"] == []
    assert row["latency_p50_ms"] is None
    monkeypatch.setattr(worker, "COMMAND", TRUSTED)
    (row,) = bench(network, **ask)
    assert row["status"] == "ok"


def test_a_technique_that_fails_is_a_row(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = artifacts.under

    def fails(name: str, graph: Graph, technique: str, *rest: Any) -> Any:
        if technique == "weight":
            raise UsageError("nothing left to prune")
        return honest(name, graph, technique, *rest)

    monkeypatch.setattr(artifacts, "under", fails)
    ask = {"backends": "numpy", "output": tmp_path / "j.jsonl", "policy": FAST}
    bad, good = bench(network, ["weight", "dense"], **ask)
    assert (bad["status"], bad["status_reason"]) == ("failed", "UsageError: nothing left to prune")
    assert good["status"] == "ok"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"models": "mobilnet"}, "unknown model 'mobilnet': did you mean 'mobilenet'"),
        ({"techniques": ["sparse"]}, "unknown technique 'sparse'"),
        ({"backends": ["openMP"]}, "unknown backend 'openMP': did you mean 'openmp'"),
        ({"backends": []}, "no backend named"),
        ({"threads": 0}, "threads: got 0, wanted a whole number of at least 1"),
        ({"threads": [1, -2]}, "threads: got -2"),
        ({"threads": []}, "threads: none named"),
        ({"batch": 0}, "batch: got 0"),
        ({"models": "nowhere/x.safetensors"}, "cannot be read"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(tmp_path: Path, ask: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench(**{"models": "mobilenet", **ask}, output=tmp_path / "j.jsonl")
    assert not (tmp_path / "j.jsonl").exists()


def test_without_a_compiler(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSTACK_CC", "/nonexistent")
    with pytest.raises(BackendUnavailable, match="backend openmp: no C compiler found"):
        bench(network, "dense", "openmp", output=tmp_path / "j.jsonl")
    notes = Notes()
    rows = bench(network, "dense", threads=1, output=tmp_path / "j.jsonl", policy=FAST, report=notes)
    assert {row["backend"] for row in rows} == {"blas", "numpy", "opencl"}
    assert any("backend openmp is left out: no C compiler" in text for text in notes.said)
    assert rows[0]["env"]["roofs"] is None


def test_more_threads_than_allowed_are_said(network: str, tmp_path: Path) -> None:
    notes = Notes()
    many = machine.threads_allowed() + 1
    bench(network, "dense", "numpy", threads=[many], output=tmp_path / "j.jsonl", policy=FAST, report=notes)
    assert any(f"{many} threads asked for" in text for text in notes.said)


def test_a_known_model_without_a_checkpoint_gets_drawn_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refstack.models import zoo

    monkeypatch.setattr(zoo, "data_dir", lambda: tmp_path)
    assert source("mobilenet", 0).meta["technique"] == "drawn"


# Accuracy


def test_recorded_accuracy_is_quoted_only_for_the_very_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"weights": "trained", "artifact_sha256": "abc"}
    found = {"cifar10-test": {"top1": 90.0, "correct": 9000, "n": 10000}}
    trained = replace(tiny(), meta={"accuracy": found})
    dense = Artifact("tiny", "dense", tmp_path, tmp_path, tmp_path, facts)
    assert accuracy.recorded(trained, dense).fields() == {
        "top1": 90.0, "top1_n": 10000, "top1_source": "recorded:cifar10-test", "top1_reason": None,
    }  # fmt: skip
    small = replace(dense, technique="weight")
    assert accuracy.recorded(trained, small).reason == "not measured: no data set given"
    for sha, quoted in ((small.sha256, "recorded:cifar10-test"), ("other", None)):
        monkeypatch.setattr(accuracy.zoo, "one_shot", lambda sha=sha: {sha: {"accuracy": found}})
        assert accuracy.recorded(trained, small).source == quoted
