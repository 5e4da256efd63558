"""What tuning found, on disk: hostile until checked, of this machine alone, and never half written."""

from __future__ import annotations

import json
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from files import small_files
from tuned import network

import refstack as rs
from refstack.benchmark import choices, machine, tuning
from refstack.benchmark.choices import Found
from refstack.errors import ResourceError, UsageError

FAST = Found(
    "conv2d.csr.openmp.fast", "conv2d.csr.openmp.first", {"conv2d.csr.openmp.fast": 1.5}, {"x": "wrong"}, "now"
)
SAME = Found("conv2d.csr.openmp.first", "conv2d.csr.openmp.first", {"conv2d.csr.openmp.first": 1.0})


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kept" / "tuning.json"
    monkeypatch.setenv("REFSTACK_TUNING_FILE", str(path))
    return path


def test_what_is_kept_comes_back(file: Path) -> None:
    assert choices.kept("openmp", 1) == {}
    assert choices.keep("openmp", 1, {"a": FAST, "b": SAME}) == file
    assert choices.kept("openmp", 1) == {"a": FAST, "b": SAME}
    assert rs.tuned() == rs.tuned("openmp", 1) == {"a": FAST.kernel}
    choices.keep("openmp", 2, {"a": SAME})
    choices.keep("openmp", 1, {"b": FAST})
    assert choices.kept("openmp", 1) == {"a": FAST, "b": FAST}
    assert choices.kept("openmp", 2) == {"a": SAME}
    assert choices.kept("blas", 1) == {}
    assert {path.name for path in file.parent.iterdir()} <= {"tuning.json", "tuning.json.lock"}


def test_the_file_lies_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFSTACK_TUNING_FILE")
    monkeypatch.setenv("REFSTACK_CACHE_DIR", str(tmp_path / "cache"))
    assert choices.path() == tmp_path / "cache" / "tuning.json"


def test_another_machine_is_not_believed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices.keep("openmp", 1, {"a": FAST})
    here = machine.environment()
    monkeypatch.setattr(machine, "environment", lambda: {**here, "key": "elsewhere"})
    assert choices.kept("openmp", 1) == {}
    choices.keep("openmp", 1, {"a": SAME})
    assert choices.kept("openmp", 1) == {"a": SAME}
    monkeypatch.setattr(machine, "environment", lambda: here)
    assert choices.kept("openmp", 1) == {"a": FAST}, "it is kept for when that machine is back"


def test_another_build_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    choices.keep("openmp", 1, {"a": FAST})
    monkeypatch.setenv("REFSTACK_CFLAGS", "-DELSEWHERE")
    assert choices.kept("openmp", 1) == {}


def record(**changes: Any) -> dict[str, Any]:
    return {"kernel": "k", "default": "d", "times_us": {"k": 1}, "left_out": {}, "measured_utc": ""} | changes


def whole(value: Any) -> str:
    return json.dumps({"schema": 1, "machines": {"key": {"openmp 1": {"case": value}}}})


DAMAGED = {
    "empty": "",
    "cut off": whole(record())[:-5],
    "no json": "\x00\x01",
    "a list": "[]",
    "another schema": '{"schema": 2, "machines": {}}',
    "no machines": '{"schema": 1}',
    "machines are a list": '{"schema": 1, "machines": []}',
    "cases are a number": '{"schema": 1, "machines": {"key": {"openmp 1": 3}}}',
    "a case is text": whole("fast"),
    "a field is missing": whole({"kernel": "k"}),
    "a field too many": whole(record(run="x")),
    "the kernel is a number": whole(record(kernel=3)),
    "the default is missing": whole(record(default=None)),
    "a time is text": whole(record(times_us={"k": "fast"})),
    "a time is below zero": whole(record(times_us={"k": -1})),
    "a time is true": whole(record(times_us={"k": True})),
    "a time is not a number": whole(record(times_us={"k": float("nan")})),
    "a time is infinite": whole(record(times_us={"k": float("inf")})),
    "a time is huge": whole(record()).replace('"k": 1', '"k": 1' + "0" * 5000),
    "times are a list": whole(record(times_us=[])),
    "a reason is a number": whole(record(left_out={"k": 1})),
    "nested too deep": "[" * 100_000,
}


def test_the_sound_record_of_the_damaged_ones_is_read(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(whole(record()))
    assert choices.kept("openmp", 1) == {}  # of another machine: no warning


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_ignored_with_a_warning(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.warns(RuntimeWarning, match=r"tuning\.json: ignored, not what `refstack tune` writes: .+"):
        assert choices.kept("openmp", 1) == {}
    with pytest.warns(RuntimeWarning, match="ignored"):
        choices.keep("openmp", 1, {"a": FAST})
    assert rs.tuned() == {"a": FAST.kernel}, "the next run of tune makes it anew"


def test_what_is_no_file_is_ignored(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.mkdir()
    os.mkfifo(file)
    with pytest.warns(RuntimeWarning, match="not a regular file"):
        assert rs.tuned() == {}
    file.unlink()
    file.mkdir()
    with pytest.warns(RuntimeWarning, match="ignored"):
        assert rs.tuned() == {}
    monkeypatch.setattr(choices, "MOST_BYTES", 100)
    file.rmdir()
    file.write_text(whole(record()))
    with pytest.warns(RuntimeWarning, match=r"bytes, at most 100 are read"):
        assert rs.tuned() == {}


def test_kernels_that_are_gone_or_refuse_are_ignored() -> None:
    graph = network()
    default = rs.plan(graph, 1, "blas")
    case = next(step.case.word for step in default.steps if step.node.name == "a")
    for name in ("conv2d.dense.blas.gone", "conv2d.dense.blas.depthwise", "linear.dense.blas.gemm", ""):
        made = rs.plan(graph, 1, "blas", tuned={case: name})
        assert [step.kernel.name for step in made.steps] == [step.kernel.name for step in default.steps]
        assert made.tuned == 0
    made = rs.plan(graph, 1, "blas", tuned={case: "conv2d.dense.numpy.reference"})
    assert (made.choices["a"].kernel.backend, made.choices["b"].kernel.backend) == ("numpy", "blas")
    assert made.tuned == 1


def test_the_file_does_not_grow_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "MOST_CASES", 3)
    monkeypatch.setattr(choices, "MOST_MACHINES", 2)
    for name in "abc":
        choices.keep("openmp", 1, {name: FAST})
    choices.keep("openmp", 1, {"a": SAME})
    choices.keep("openmp", 1, {"d": FAST})
    assert list(choices.kept("openmp", 1)) == ["c", "a", "d"], "what was measured longest ago goes"
    for key in ("one", "two"):
        monkeypatch.setattr(machine, "environment", lambda key=key: {"key": key})
        choices.keep("openmp", 1, {"a": FAST})
    assert list(json.loads(file.read_text())["machines"]) == ["one", "two"]


def test_a_full_disk_leaves_the_file_as_it_was(file: Path) -> None:
    choices.keep("openmp", 1, {"a": FAST})
    before = file.read_bytes()
    with small_files(len(before)), pytest.raises(ResourceError, match="cannot write"):
        choices.keep("openmp", 1, {str(i): FAST for i in range(10)})
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} <= {"tuning.json", "tuning.json.lock"}


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tune says so before it measures."""
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(tuning, "_Run", None)
    for place, match in (("taken/tuning.json", "the folder cannot be made: .*REFSTACK_TUNING_FILE"), ("", "cannot")):
        monkeypatch.setenv("REFSTACK_TUNING_FILE", str(tmp_path / place))
        with pytest.warns(RuntimeWarning) if not place else nullcontext(), pytest.raises(UsageError, match=match):
            rs.tune("mobilenet", "dense", "numpy")


def test_two_runs_at_once_lose_nothing() -> None:
    workers = [threading.Thread(target=choices.keep, args=("openmp", i, {"a": FAST})) for i in range(1, 9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(choices.kept("openmp", i) == {"a": FAST} for i in range(1, 9))


def test_forget(file: Path) -> None:
    assert not choices.forget()
    choices.keep("openmp", 1, {"a": FAST})
    assert choices.forget()
    assert not file.exists()
    assert rs.tuned() == {}
