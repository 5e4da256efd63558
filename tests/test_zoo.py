"""Names find the shipped checkpoints, paths find files, and neither is believed without its hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import images, small

from refstack import checkpoint
from refstack.compression import TECHNIQUES, compress
from refstack.errors import ChecksumError, DataError, FormatError, UsageError
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.ops import BatchNorm
from refstack.reference import run, trace

ACCURACY = {"cifar10-lossless-val": {"top1": 91.5, "correct": 1830, "n": 2000}}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that ships a drawn MobileNet."""
    monkeypatch.setattr(zoo, "data_dir", lambda: tmp_path)
    graph = zoo.draw(MODELS["mobilenet"](), 1)
    checkpoint.save(graph, tmp_path / "mobilenet.safetensors", "float16")
    checkpoint.save_arrays({"logits": np.zeros((2, 10), np.float32)}, tmp_path / "mobilenet.golden.safetensors")
    entry = {
        "file": "mobilenet.safetensors",
        "sha256": sha256(tmp_path / "mobilenet.safetensors"),
        "golden": "mobilenet.golden.safetensors",
        "golden_sha256": sha256(tmp_path / "mobilenet.golden.safetensors"),
        "model": "mobilenet",
        "technique": "dense",
        "accuracy": ACCURACY,
    }
    write(tmp_path, {"schema_version": 1, "checkpoints": {"mobilenet": entry}})
    return tmp_path


def write(data: Path, manifest: object) -> None:
    (data / "manifest.json").write_text(json.dumps(manifest))


def edit(data: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    change(manifest)
    write(data, manifest)


# By name


def test_a_name_gives_the_shipped_checkpoint(data: Path) -> None:
    graph = zoo.load("mobilenet")
    file = data / "mobilenet.safetensors"
    assert zoo.checkpoint_path("mobilenet") == file
    assert graph.sha256() == checkpoint.load(file).sha256()
    assert graph.meta["model"] == "mobilenet"
    assert graph.meta["technique"] == "dense"
    assert graph.meta["accuracy"] == ACCURACY
    assert graph.meta["sha256"] == sha256(file)
    assert zoo.golden("mobilenet")["logits"].shape == (2, 10)


@pytest.mark.parametrize(("name", "hint"), [("VGG16", "vgg16"), ("resnet", "resnet18"), ("mobilenets", "mobilenet")])
def test_a_mistyped_name(data: Path, name: str, hint: str) -> None:
    wanted = (
        f"unknown model '{name}': did you mean '{hint}'. wanted one of vgg16, resnet18, mobilenet, or a checkpoint's"
    )
    for function in (zoo.load, zoo.checkpoint_path, zoo.golden):
        with pytest.raises(UsageError, match=wanted):
            function(name)


def test_a_name_like_no_other(data: Path) -> None:
    with pytest.raises(UsageError, match="unknown model 'transformer': wanted one of vgg16, resnet18, mobilenet, or"):
        zoo.load("transformer")


def test_a_model_that_is_not_shipped(data: Path) -> None:
    with pytest.raises(
        DataError, match=r"no trained checkpoint of vgg16 \(there: mobilenet\); train it or name a file"
    ):
        zoo.load("vgg16")


@pytest.mark.parametrize("key", ["file", "golden"])
def test_a_shipped_file_that_changed(data: Path, key: str) -> None:
    name = json.loads((data / "manifest.json").read_text())["checkpoints"]["mobilenet"][key]
    content = bytearray((data / name).read_bytes())
    content[-1] ^= 1
    (data / name).write_bytes(content)
    load = zoo.load if key == "file" else zoo.golden
    with pytest.raises(
        ChecksumError, match=rf"{re.escape(name)}: sha256 is [0-9a-f]+, the manifest says [0-9a-f]+; inst"
    ):
        load("mobilenet")
    (data / name).unlink()
    with pytest.raises(DataError, match=rf"{re.escape(name)}: the manifest names this file, but it is not there"):
        load("mobilenet")


def test_a_manifest_that_is_none(data: Path) -> None:
    for text, match in (
        ("{", "manifest.json: manifest: not JSON at character 1"),
        ("[]", "manifest: has list, wanted exactly the keys"),
        ('{"schema_version": 1, "schema_version": 1, "checkpoints": {}}', "'schema_version' stands there twice"),
        ('{"schema_version": 2, "checkpoints": {}}', "manifest.json: schema version 2, wanted 1; update refstack"),
    ):
        (data / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=match):
            zoo.manifest()
    (data / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest.json: no list of checkpoints \(.*No such file"):
        zoo.load("vgg16")


def test_an_entry_that_lacks_its_hash(data: Path) -> None:
    edit(data, lambda manifest: manifest["checkpoints"]["mobilenet"].pop("sha256"))
    with pytest.raises(DataError, match="the entry of mobilenet lacks sha256; install refstack again"):
        zoo.load("mobilenet")


def test_the_manifest_names_files_of_its_own_folder_only(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "other.safetensors"
    (data / "mobilenet.safetensors").rename(elsewhere)
    for name in (str(elsewhere), f"../{elsewhere.parent.name}/{elsewhere.name}"):
        edit(data, lambda manifest, name=name: manifest["checkpoints"]["mobilenet"].update(file=name))
        with pytest.raises(DataError, match=f"{data}/other.safetensors: the manifest names this file, but it is not"):
            zoo.load("mobilenet")


def test_the_data_folder_of_a_checkout_and_of_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "refstack" / "models" / "zoo.py"
    monkeypatch.setattr(zoo, "__file__", str(module))
    module.parent.mkdir(parents=True)
    assert zoo.data_dir() == tmp_path / "data"
    (tmp_path / "refstack" / "data").mkdir()
    assert zoo.data_dir() == tmp_path / "refstack" / "data"


# By path


def test_a_path_gives_that_file(data: Path) -> None:
    graph = zoo.draw(small(), 2)
    for name in ("net.safetensors", "vgg16", "plain"):
        checkpoint.save(graph, data / name)
        for path in (data / name, str(data / name)):
            back = zoo.load(path)
            assert back.sha256() == graph.sha256()
            assert back.meta["sha256"] == sha256(data / name)
            assert back.meta["technique"] == "drawn"


def test_a_word_that_is_a_file_here(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    checkpoint.save(zoo.draw(small(), 2), data / "mine")
    assert zoo.load("mine").name == "small"
    checkpoint.save(zoo.draw(small(), 2), data / "mobilenet")
    assert zoo.load("mobilenet").name == "mobilenet"  # a model's name goes first


@pytest.mark.parametrize("path", ["none.safetensors", "folder/none"])
def test_a_path_that_is_not_there(data: Path, path: str) -> None:
    with pytest.raises(UsageError, match=f"{path}: cannot be read: No such file"):
        zoo.load(path)


def test_a_path_to_something_else(data: Path) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json: no header at byte 8"):
        zoo.load(data / "manifest.json")


# Drawn weights


@pytest.mark.parametrize("model", MODELS)
def test_drawn_weights(model: str) -> None:
    graph = zoo.draw(MODELS[model](), 3)
    assert graph.sha256() == zoo.draw(MODELS[model](), 3).sha256()
    assert graph.sha256() != zoo.draw(MODELS[model](), 4).sha256()
    assert graph.meta["technique"] == "drawn"
    assert graph.params == MODELS[model]().params
    for node in graph:
        if node.weight is None:
            continue
        weight = node.weight.decode().astype(np.float64)
        if isinstance(node.op, BatchNorm):
            assert node.var is not None
            assert weight.min() >= 0.5
            assert node.var.min() >= 0.5
        else:
            variance, expected = np.square(weight).mean(), 2 / weight.shape[1]
            # the sample variance of n normals has deviation sqrt(2 / n); 6 deviations
            assert abs(variance / expected - 1) < 6 * np.sqrt(2 / weight.size)


def test_drawn_networks_do_not_die_or_blow_up() -> None:
    graph = zoo.draw(MODELS["resnet18"](), 0)
    values = trace(graph, np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32))
    sizes = [float(np.abs(values[node.name]).mean()) for node in graph]
    assert 1e-3 < min(sizes)
    assert max(sizes) < 1e3
    logits = values[graph.output]
    assert (logits[0] != logits[1]).all()


def test_drawing_keeps_the_network() -> None:
    graph: Graph = small()
    drawn = zoo.draw(graph)
    assert [(n.name, n.op, n.inputs) for n in drawn] == [(n.name, n.op, n.inputs) for n in graph]
    assert np.isfinite(run(drawn, images(drawn))).all()


def test_what_was_recorded_of_one_shot_compression() -> None:
    entries = zoo.one_shot()
    techniques = {*TECHNIQUES, "ternary+int8"} - {"dense"}
    wanted = {(model, technique) for model in MODELS for technique in techniques}
    assert {(entry["model"], entry["technique"]) for entry in entries.values()} == wanted
    for entry in entries.values():
        for found in entry["accuracy"].values():
            assert found["top1"] == round(100 * found["correct"] / found["n"], 2)
            assert found["n"] in (2000, 10000)


@pytest.mark.parametrize("technique", ["weight", "channel", "ternary"])  # int8's ranges come out of BLAS
def test_the_record_is_of_what_compression_makes_here(technique: str) -> None:
    made = compress(zoo.load("mobilenet"), technique)
    entry = zoo.one_shot()[made.sha256()]
    assert (entry["model"], entry["technique"]) == ("mobilenet", technique)
    assert entry["level"] == made.meta["compression"]["level"]


def test_a_damaged_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "data_dir", lambda: tmp_path)
    assert zoo.one_shot() == {}
    (tmp_path / "one_shot.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(DataError, match=r"one_shot.json: .*'a' stands there twice.*; install refstack again"):
        zoo.one_shot()
