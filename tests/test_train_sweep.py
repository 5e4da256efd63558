"""Points by the dozen: the list, the workers that share it, and the command line."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainees import QUICK, pictures, tiny

from refstack import checkpoint, train
from refstack.errors import BackendUnavailable, UsageError
from refstack.models import MODELS, zoo
from refstack.train import FineTune, compress, study
from refstack.train.__main__ import main
from refstack.train.recipe import FINE_TUNES

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install "refstack-engine[train]"')

from refstack.train import sweep  # noqa: E402
from refstack.train.points import Material, Point  # noqa: E402


@pytest.fixture
def material() -> Material:
    return Material(tiny(), pictures(80), [pictures(30)], "cpu", {"device": "here"})


def test_every_quoted_point_has_three_seeds_and_its_control() -> None:
    todo = sweep.points()
    assert len(todo) == len(set(todo)) == len({point.name for point in todo})
    for technique, at in sweep.QUOTED.items():
        for model, level in at.items():
            for seed in (0, 1, 2):
                assert Point(model, technique, level, seed) in todo
    for model, level in sweep.QUOTED["channel"].items():
        assert {Point(model, "channel", level, seed, "random") for seed in (0, 1, 2)} <= set(todo)
    for model in MODELS:
        for technique in ("weight", "channel"):
            levels = {p.level for p in todo if (p.model, p.technique, p.seed) == (model, technique, 0)}
            assert len(levels) >= 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process")
def test_workers_keep_to_their_own_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5})
    pinned: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, processors: pinned.append(set(processors)))
    for worker, workers in ((0, 2), (1, 2), (0, 1), (4, 5)):
        train._keep_to_own(worker, workers)
    assert pinned == [{0, 5}, {2}, {0, 2, 5}, {2}]


def test_workers_share_the_points(material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fake(point: Point, _material: Any, out: Path, report: Any = None) -> None:
        if point.base is not None and not (out / f"{point.base.name}.json").exists():
            fake(point.base, _material, out)
        if point.level == 0.7:
            raise ValueError("planted")
        made.append(point.name)
        (out / f"{point.name}.json").write_text("{}")

    monkeypatch.setattr(sweep, "produce", fake)
    todo = [
        Point("tiny", t, level)
        for t, level in (("channel+ternary", 0.4), ("channel", 0.4), ("weight", 0.7), ("weight", 0.9))
    ]
    (tmp_path / f"{todo[3].name}.claim").touch()  # somebody else is at it
    assert sweep.work(todo, lambda model: material, tmp_path, lambda line: None) == 1
    assert made == [todo[1].name, todo[0].name], "the lower point first, and once"
    assert "planted" in (tmp_path / f"{todo[2].name}.error").read_text()
    sweep.release(tmp_path)
    assert sweep.work(todo, lambda model: material, tmp_path, lambda line: None) == 1
    assert made[2:] == [todo[3].name]


# Command line


def archives(folder: Path) -> None:
    from test_train import archive

    for name, number in (("train", 3), ("test", 1)):
        archive(folder / f"{name}.tar.xz", number)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(MODELS, "mobilenet", tiny)
    checkpoint.save(tiny(), tmp_path / "start.safetensors")
    archives(tmp_path)
    out = tmp_path / "out"
    command = ["train", "compress", "mobilenet", "--data", str(tmp_path), "--out", str(out), "--device", "cpu",
               "--start", str(tmp_path / "start.safetensors"), "--epochs", "1", "--set", "batch=8"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*command, "--technique", "weight", "--level", "0.9"])
    assert main() == 0
    said = capsys.readouterr().out
    assert "mobilenet-weight-magnitude-90-seed0: 30 images of train, judged by test" in said
    assert "minutes in all on cpu" in said, "an estimate comes first"
    record = json.loads((out / "mobilenet-weight-magnitude-90-seed0.json").read_text())
    assert record["recipe"] == json.loads(json.dumps(asdict(replace(FineTune(), epochs=1, batch=8))))
    assert record["accuracy"]["test"]["n"] == 10

    monkeypatch.setattr(
        sys, "argv", [*command, "--technique", "channel", "--level", "0.3", "--holdout", "1", "--seed", "4"]
    )
    assert main() == 0
    record = json.loads((out / "mobilenet-channel-fisher-30-seed4.json").read_text())
    assert (record["data"]["name"], record["seed"]) == ("train-without1", 4)
    assert list(record["accuracy"]) == ["train-holdout1"]

    for wrong, message in (
        (["--technique", "weight"], "weight wants a level"),
        (["--technique", "weight", "--level", "2"], "level is 2.0"),
        (["--technique", "weight", "--level", ".5", "--set", "lr"], "wanted NAME=VALUE"),
    ):
        monkeypatch.setattr(sys, "argv", [*command, *wrong])
        assert main() == 2
        assert message in capsys.readouterr().err


def test_study_starts_workers_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import refstack.train as package

    archives(tmp_path)
    out, started = tmp_path / "out", []
    todo = [Point("mobilenet", "weight", level) for level in (0.5, 0.9)]
    monkeypatch.setattr(sweep, "points", lambda: todo)
    monkeypatch.setattr(zoo, "load", lambda name: tiny())
    monkeypatch.setitem(FINE_TUNES, "weight", replace(QUICK, epochs=1))

    class Worker:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.append(command)

        def wait(self) -> None:
            if len(started) == 2 and (last := started[-1])[-1] == "1":
                package.study(tmp_path, out, workers=2, worker=int(last[-1]), device="cpu", report=lambda line: None)

    monkeypatch.setattr(package.subprocess, "Popen", Worker)
    out.mkdir()
    (out / f"{todo[0].name}.claim").touch()  # left behind by a run that was broken off
    assert study(tmp_path, out, workers=2, device="cpu") == 0
    assert [command[1:4] + command[-2:] for command in started] == [
        ["-m", "refstack.train", "study", "--worker", "0"],
        ["-m", "refstack.train", "study", "--worker", "1"],
    ]
    records = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(records) == 2
    started.clear()
    assert study(tmp_path, out, workers=2, device="cpu") == 0
    assert records == {path: path.stat().st_mtime_ns for path in out.glob("*.json")}, "what is there stays"


def test_without_a_gpu_the_cpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="finds no CUDA device; use --device cpu"):
        compress("mobilenet", "weight", 0.9, tmp_path, tmp_path)


def test_hold_out_takes_the_last_of_each_class() -> None:
    from refstack.train import _hold_out

    rest, held = _hold_out(pictures(50), 2)
    assert (len(rest), len(held)) == (30, 20)
    assert sorted(held.names, key=int) == [str(i) for i in range(30, 50)]
    assert not set(rest.names) & set(held.names)
    for part in (rest, held):
        assert np.array_equal(part.images, pictures(50).images[[int(name) for name in part.names]])
    with pytest.raises(UsageError, match="holdout is 5 images a class"):
        _hold_out(pictures(50), 5)
