"""Nothing is timed on a kernel that `verify` has not passed; what it found is kept, for what it was found of alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benching import FAST, Notes, planted, tiny

from refstack import checkpoint
from refstack.backends import blas, numpy
from refstack.benchmark import bench, profile, worker
from refstack.errors import CheckFailed
from refstack.planner import plan
from refstack.verification import examiner, gate, records, refused, verify
from refstack.verification.records import Record

LINEAR = "linear.dense.numpy.reference"
RELU = "relu.float32.numpy.reference"
PASSED = Record("PASS", "quick", 36, "2026-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of records in which nothing is known yet. That saboteurs are caught is test_verify's to show."""
    monkeypatch.setattr(records, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr("refstack.verification.verdicts.sensitivity", lambda *rest, **more: ([], 15))
    return tmp_path / "verified"


@pytest.fixture
def ask(tmp_path: Path) -> dict[str, Any]:
    """A bench of a small network that takes no time."""
    checkpoint.save(tiny(), tmp_path / "tiny.safetensors")
    return {
        "models": str(tmp_path / "tiny.safetensors"), "techniques": "dense", "threads": 1, "policy": FAST,
        "output": tmp_path / "j.jsonl",
    }  # fmt: skip


def plant(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A wrong linear kernel, in the processes that examine and in those that time."""
    monkeypatch.setattr(examiner, "COMMAND", planted(fault, "verification.child"))
    monkeypatch.setattr(worker, "COMMAND", planted(fault))


def never(*arguments: Any, **more: Any) -> Any:
    raise AssertionError("nothing is to be verified here")


# The bench


def test_a_kernel_that_is_wrong_elsewhere_is_not_timed(ask: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Right on the one image that the bench runs, wrong on three: the plan's own check cannot see it."""
    with monkeypatch.context() as patched:
        plant(patched, "if len(step.output) == 3: step.output[...] += 1")
        notes = Notes()
        wrong, right = bench(backends=["numpy", "blas"], report=notes, **ask)
    assert (wrong["status"], right["status"]) == ("failed", "ok"), right["status_reason"]
    assert wrong["status_reason"].startswith(f"{LINEAR} has not passed verify (FAIL: ")
    assert f"to see it again: refstack verify --kernel {LINEAR} --case linear.dense:n3" in wrong["status_reason"]
    assert wrong["samples_ns"] == []
    assert wrong["latency_p50_ms"] is None
    assert any("have not been verified on this machine" in text for text in notes.said)

    with monkeypatch.context() as patched:  # what failed stays refused until it passes, whatever the cell
        patched.setattr(gate, "verify", never)
        (still,) = bench(backends="numpy", **ask)
    assert still["status_reason"] == wrong["status_reason"]
    assert verify(LINEAR, backends=["numpy"])[0].state == "PASS"
    assert bench(backends="numpy", **ask)[0]["status"] == "ok"


def test_verified_once(ask: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench(backends="numpy", **ask)[0]["status"] == "ok"
    known = records.read("numpy")
    assert {"conv2d.dense.numpy.reference", LINEAR} <= set(known)
    assert {(record.state, record.profile, record.cases) for record in known.values()} == {("PASS", "quick", 36)}
    monkeypatch.setattr(gate, "verify", never)
    assert bench(backends="numpy", fresh=True, **ask)[0]["status"] == "ok"


def test_layer_by_layer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    records.write("numpy", {LINEAR: Record("FAIL", "quick", 3, "", "3 exact values are wrong")})
    graph = tiny()
    with pytest.raises(CheckFailed, match=rf"{LINEAR} has not passed verify \(FAIL: 3 exact values"):
        profile.profile(plan(graph, backends=("numpy",)), tiny_images(), rounds=1)


def tiny_images() -> Any:
    import numpy as np

    return np.ones((1, 3, 8, 8), np.float32)


# What is kept


def test_what_is_kept() -> None:
    verify([RELU, "softmax.*"], backends=["numpy"])
    assert set(records.read("numpy")) == {RELU, "softmax.float32.numpy.reference"}
    verify("flatten.*", backends=["numpy"])
    assert len(records.read("numpy")) == 4


@pytest.mark.parametrize("less", [{"examples": 9}, {"threads": [1]}, {"case": "relu.float32:n1c2@integer"}])
def test_less_than_a_profile_is_not_kept(less: dict[str, Any]) -> None:
    assert [each.state for each in verify(RELU, backends=["numpy"], **less)] == ["PASS"]
    assert records.read("numpy") == {}


def test_a_blind_checker_passes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refstack.verification.verdicts.sensitivity", lambda *rest, **more: (["stale"], 15))
    assert RELU in refused([RELU])
    assert records.read("numpy") == {}


def test_what_failed_once_must_pass_that_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One problem is enough to be refused, and drawing others is not enough to be let in."""
    word = "linear.dense:n2c3_k321@integer"
    with monkeypatch.context() as patched:
        plant(patched, "if step.output.shape[1] == 321: step.output[...] += 1")
        patched.setattr("refstack.verification.verdicts.SHRINK_S", 0)
        (found,) = verify(LINEAR, 5, backends=["numpy"], case=word)
        assert (found.state, found.case) == ("FAIL", word)
        (again,) = verify(LINEAR, backends=["numpy"])
        assert (again.state, again.case, again.cases) == ("FAIL", word, 37)
    assert set(refused([LINEAR, RELU])) == {LINEAR}
    assert verify(LINEAR, backends=["numpy"])[0].cases == 37
    assert refused([LINEAR]) == {}


# What is not to be trusted


@pytest.mark.parametrize(
    ("module", "attribute"), [(records, "code_sha256"), (numpy, "build_id"), (numpy, "blas"), (numpy, "cpu_features")]
)
def test_records_of_another_build_do_not_count(
    module: Any, attribute: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    records.write("numpy", {RELU: PASSED})
    (path,) = cache.glob("*.json")
    monkeypatch.setattr(module, attribute, lambda *arguments: "another")
    assert records.read("numpy") == {}
    path.rename(cache / f"numpy-{records.digest('numpy')}.json")  # nor under another's name
    assert records.read("numpy") == {}


def test_every_backend_says_what_it_is_built_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy

    before = blas.build_id()
    assert numpy.build_id() in before
    monkeypatch.setattr(scipy, "__version__", "0.0")
    assert blas.build_id() != before


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        found = json.loads(content)
        change(found)
        return json.dumps(found).encode()

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: b"[" * 100_000,
        lambda content: b"\xff" + content,
        lambda content: b"[1]",
        lambda content: b"{}",
        edited(lambda found: found["kernels"][RELU].update(state="PASS")),
        edited(lambda found: found.update(digest="0" * 32)),
        edited(lambda found: found.update(seal="0" * 64)),
        edited(lambda found: found["kernels"].update({LINEAR: found["kernels"][RELU]})),
    ],
)
def test_a_damaged_file_counts_as_none(damage: Callable[[bytes], bytes], cache: Path) -> None:
    records.write("numpy", {RELU: Record("FAIL", "quick", 1, "")})
    (path,) = cache.glob("*.json")
    path.write_bytes(damage(path.read_bytes()))
    assert records.read("numpy") == {}
    records.write("numpy", {LINEAR: PASSED})
    assert records.read("numpy") == {LINEAR: PASSED}


def test_records_that_cannot_be_kept_are_said(cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.warns(RuntimeWarning, match="what verify found cannot be kept in"):
        records.write("numpy", {RELU: PASSED})
