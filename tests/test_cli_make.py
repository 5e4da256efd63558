"""Verbs that make networks: what they write, and what they say when training cannot run here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from benching import strict_loads
from commands import Done, here, network, refstack_command

from refstack import checkpoint
from refstack.models import MODELS
from refstack.models.zoo import draw


@pytest.fixture
def model(tmp_path: Path) -> str:
    checkpoint.save(network(), tmp_path / "small.safetensors")
    return str(tmp_path / "small.safetensors")


def test_compress_in_one_shot(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    out = tmp_path / "small-ternary.safetensors"
    done = here(capfd, "compress", model, "-t", "ternary", "--one-shot", "-o", str(out), "-f", "json")
    assert done.returncode == 0, done.stderr
    (record,) = strict_loads(done.stdout)
    assert checkpoint.load(out).sha256() == record["sha256"]
    assert record["stored_bytes"] < record["of"]
    assert here(capfd, "compress", model, "-t", "half", "-o", str(out)).returncode == 0
    done = here(capfd, "compress", model, "-t", "weight", "--level", "0.9", "-o", str(out), "--data", "x")
    assert done.returncode == 2
    assert "is a network called 'small'; training knows vgg16, resnet18, mobilenet (--one-shot works" in done.stderr


def without_a_gpu(*arguments: str, cwd: Path) -> Done:
    """Neither PyTorch nor, where it is installed, a device that it could use."""
    return refstack_command(*arguments, cwd=cwd, CUDA_VISIBLE_DEVICES="")


def test_training_that_cannot_run_here_says_what_is_missing(tmp_path: Path) -> None:
    ask = ("compress", "mobilenet", "-t", "weight", "--level", "0.9", "-o", "x.safetensors", "--data", ".")
    done = without_a_gpu(*ask, cwd=tmp_path)
    assert done.returncode == 3
    assert re.search(
        r"needs PyTorch.*pip install .refstack-engine\[train\]|no CUDA device; use --device cpu", done.stderr
    )
    assert "or compress in one shot, without training: --one-shot" in done.stderr
    done = without_a_gpu("train", "mobilenet", "--data", ".", "-o", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert not list(tmp_path.iterdir())


def test_compress_with_training(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training leaves in the output's folder becomes the output; what it says goes to stderr."""
    from refstack import train
    from refstack.compression import compress

    asked: dict[str, Any] = {}

    def trained(*arguments: Any, report: Any, **options: Any) -> dict[str, Any]:
        asked.update(options, arguments=arguments)
        print("a library's word")
        report("epoch 1")
        arguments[4].mkdir()
        graph = compress(draw(MODELS["mobilenet"]()), "weight", 0.9)
        graph = graph.with_nodes(graph.nodes, accuracy={"set": {"top1": 50.0}})
        checkpoint.save(graph, arguments[4] / "this.safetensors", "float16")
        record = {"model": "mobilenet", "technique": "weight", "method": "magnitude", "level": 0.9, "seed": 3}
        (arguments[4] / "this.json").write_text(json.dumps(record))
        (arguments[4] / "another.json").write_text(json.dumps(record | {"seed": 4}))
        return record

    monkeypatch.setattr(train, "compress", trained)
    out = tmp_path / "mine.safetensors"
    done = here(
        capfd, "compress", "mobilenet", "-t", "weight", "--level", "0.9", "--seed", "3", "--epochs", "2", "--data",
        str(tmp_path), "--device", "cpu", "-o", str(out), "-f", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = strict_loads(done.stdout)
    assert asked["arguments"] == ("mobilenet", "weight", 0.9, tmp_path, tmp_path / "mine.safetensors.training")
    assert (asked["epochs"], asked["seed"], asked["device"], asked["start"]) == (2, 3, "cpu", None)
    assert "a library's word" in done.stderr
    assert "epoch 1" in done.stderr
    assert record["top1"] == {"set": 50.0}
    assert record["stored_bytes"] < record["of"] / 9
    assert checkpoint.load(out).sha256() == record["sha256"]


def test_train_wraps_training(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from refstack import train

    entry = {"file": "m.safetensors", "sha256": "abc", "train_s": 3, "accuracy": {"set": {"top1": 90.0}}}
    monkeypatch.setattr(train, "train", lambda *arguments, **options: entry)
    done = here(capfd, "train", "mobilenet", "--data", ".", "-o", "out", "-f", "json")
    assert strict_loads(done.stdout) == [
        {"file": "out/m.safetensors", "sha256": "abc", "train_s": 3, "top1": {"set": 90.0}}
    ]
