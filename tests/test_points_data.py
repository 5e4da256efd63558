"""Trained points on their way into data/ and out again: recorded, loaded, timed."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from commands import here
from networks import like_trained

from refstack import checkpoint
from refstack.benchmark import artifacts, request
from refstack.compression import compress
from refstack.compression.structure import structure
from refstack.datasets import Dataset, preprocess
from refstack.errors import ChecksumError, DataError, UsageError
from refstack.evaluation import evaluate
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.models.points import manifest_text
from refstack.reference import run

# Into data/ and out again


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/record_points.py, for MobileNet alone."""
    path = Path(__file__).parent.parent / "tools" / "record_points.py"
    spec = importlib.util.spec_from_file_location("record_points", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MODELS", {"mobilenet": MODELS["mobilenet"]})
    return module


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a drawn MobileNet and no points."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setattr(zoo, "data_dir", lambda: folder)
    graph = zoo.draw(MODELS["mobilenet"](), 1)
    checkpoint.save(graph, folder / "mobilenet.safetensors", "float16")
    inputs = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    checkpoint.save_arrays({"inputs": inputs}, folder / "mobilenet.golden.safetensors")
    entry = {"model": "mobilenet", "technique": "dense", "accuracy": {}}
    for key, name in (("", "mobilenet.safetensors"), ("golden_", "mobilenet.golden.safetensors")):
        entry |= {key.rstrip("_") or "file": name, f"{key}sha256": zoo._sha256(folder / name)}
    content = {"schema_version": 1, "checkpoints": {"mobilenet": entry}}
    (folder / "manifest.json").write_text(manifest_text(content))
    half = {"accuracy": {"noise": {"top1": 10.0, "correct": 2, "n": 20}}}
    (folder / "one_shot.json").write_text(json.dumps({compress(zoo.load("mobilenet"), "half").sha256(): half}))
    return folder


@pytest.fixture
def judge() -> Dataset:
    images = np.random.default_rng(1).integers(0, 256, (20, 3, 32, 32), np.uint8)
    return Dataset("noise", images, np.arange(20) % 10, "sha", "here", tuple(f"{i}.png" for i in range(20)))


def train(data: Path, judge: Dataset, out: Path, technique: str, method: str, level: float, seed: int = 0) -> None:
    """What training would leave: a record, a network, and what it computes."""
    graph = like_trained(technique, zoo.load("mobilenet"))
    checkpoint.save(graph, out / "first.safetensors", "float16")
    graph = checkpoint.load(out / "first.safetensors")
    (out / "first.safetensors").unlink()
    y = run(graph, preprocess(judge.images))
    second, first = np.sort(y, axis=1)[:, -2:].T
    predictions = y.argmax(axis=1).astype(np.uint8)
    correct = int((predictions == judge.labels).sum())
    inputs = zoo.golden("mobilenet")["inputs"]
    x = preprocess(inputs)
    golden = {
        "inputs": inputs, "logits": run(graph, x), "logits64": run(graph, x.astype(np.float64)),
        "predictions.noise": predictions, "margin.noise": (first - second).astype(np.float16),
    }  # fmt: skip
    lines = [asdict(line) | {"format": line.format.replace("bsr", "csr")} for line in structure(graph)]
    record = {
        "model": "mobilenet", "technique": technique, "method": method, "level": level, "seed": seed,
        "recipe": {"epochs": 2}, "layers": lines, "params": graph.params, "macs": graph.macs, "nnz": graph.nnz,
        "accuracy": {"noise": {"top1": 5.0 * correct, "correct": correct, "n": 20}}, "train_s": 1,
    }  # fmt: skip
    stem = f"mobilenet-{technique}-{method}-{100 * level:g}-seed{seed}"
    (out / f"{stem}.json").write_text(json.dumps(record))
    if seed == 0:
        checkpoint.save(graph, out / f"{stem}.safetensors")
        checkpoint.save_arrays(golden, out / f"{stem}.golden.safetensors")


@pytest.fixture
def recorded(data: Path, judge: Dataset, tool: ModuleType, tmp_path: Path) -> Path:
    """The data folder after training has come in."""
    out = tmp_path / "results"
    out.mkdir()
    train(data, judge, out, "weight", "magnitude", 0.9)
    train(data, judge, out, "weight", "magnitude", 0.9, seed=1)
    train(data, judge, out, "channel", "fisher", 0.9)
    train(data, judge, out, "block", "magnitude", 0.8)
    train(data, judge, out, "int8", "mse", 0.0)
    train(data, judge, out, "channel+int8", "fisher", 0.9)
    (out / "other.json").write_text("{}")
    tool.record(out, data, [judge], lambda text: None)
    return data


def test_training_comes_in(recorded: Path, judge: Dataset) -> None:
    points = {point.name: point for point in zoo.points()}
    assert list(points) == [
        "mobilenet/weight-magnitude-0.9-s0", "mobilenet/weight-magnitude-0.9-s1", "mobilenet/block-magnitude-0.8-s0",
        "mobilenet/channel-fisher-0.9-s0", "mobilenet/int8-mse-s0", "mobilenet/half-round-s0",
        "mobilenet/channel+int8-fisher-0.9-s0",
    ]  # fmt: skip
    shipped = {name for name, point in points.items() if point.file}
    assert shipped == {
        "mobilenet/weight-magnitude-0.9-s0", "mobilenet/channel-fisher-0.9-s0", "mobilenet/channel+int8-fisher-0.9-s0",
    }  # fmt: skip
    assert points["mobilenet/weight-magnitude-0.9-s0"].facts == {"recipe": {"epochs": 2}, "train_s": 1}
    assert {line.format for line in points["mobilenet/block-magnitude-0.8-s0"].layers} == {"dense", "bsr"}

    graph = zoo.load("mobilenet/weight")
    point = points["mobilenet/weight-magnitude-0.9-s0"]
    assert structure(graph) == point.layers
    assert (recorded / "mobilenet-weight-0.9.safetensors").stat().st_size < point.stored_bytes + 20_000
    assert graph.meta["accuracy"] == point.accuracy
    assert (graph.meta["point"], graph.meta["technique"], graph.meta["level"]) == (point.name, "weight", 0.9)
    found = evaluate(graph, judge, "numpy")
    assert (found.compared, found.passed, found.correct) == (20, True, point.accuracy["noise"]["correct"])
    assert evaluate(compress(graph, "dense"), judge, "numpy").compared == 20
    assert evaluate(compress(graph, "int8"), judge, "numpy").compared == 0


def test_recording_again_takes_the_old_files_away(recorded: Path, judge: Dataset, tool: ModuleType) -> None:
    before = (recorded / "manifest.json").read_text()
    tool.record(recorded.parent / "results", recorded, [judge], lambda text: None)
    assert (recorded / "manifest.json").read_text() == before
    (recorded.parent / "empty").mkdir()
    tool.record(recorded.parent / "empty", recorded, [judge], lambda text: None)
    assert not list(recorded.glob("mobilenet-*"))
    assert {point.technique for point in zoo.points()} == {"half"}


@pytest.mark.parametrize("what", ["predictions", "count", "layers", "params", "inputs"])
def test_results_that_do_not_fit_are_not_taken(
    what: str, data: Path, judge: Dataset, tool: ModuleType, tmp_path: Path
) -> None:
    train(data, judge, tmp_path, "weight", "magnitude", 0.9)
    stem = tmp_path / "mobilenet-weight-magnitude-90-seed0"
    record = json.loads(stem.with_suffix(".json").read_text())
    arrays = checkpoint.load_arrays(f"{stem}.golden.safetensors")
    if what == "predictions":
        arrays["predictions.noise"] = (arrays["predictions.noise"] + 1) % 10
        arrays["margin.noise"] += 1
    elif what == "count":
        record["accuracy"]["noise"]["correct"] += 1
    elif what == "layers":
        record["layers"][4]["nnz"] += 1
    elif what == "inputs":
        arrays["inputs"] = arrays["inputs"] + 1
    else:
        record["params"] += 1
    stem.with_suffix(".json").write_text(json.dumps(record))
    checkpoint.save_arrays(arrays, f"{stem}.golden.safetensors")
    known = {"layers": "is not what its record says", "params": "not as recorded", "inputs": "of other inputs"}
    match = known.get(what, "departures on noise; the record says")
    with pytest.raises(SystemExit, match=match):
        tool.record(tmp_path, data, [judge], lambda text: None)


def test_too_much_to_ship_is_said(
    data: Path, judge: Dataset, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, judge, tmp_path, "weight", "magnitude", 0.9)
    monkeypatch.setattr(tool, "MOST_BYTES", 10_000)
    with pytest.raises(SystemExit, match=r"shipped points take \d+ bytes, wanted at most 10000"):
        tool.record(tmp_path, data, [judge], lambda text: None)


def test_names_that_load_nothing(recorded: Path) -> None:
    for name in ("mobilenet/half", "mobilenet/weight-magnitude-0.9-s1"):
        with pytest.raises(DataError, match="its weights are not shipped, only its structure and accuracy"):
            zoo.load(name)
        with pytest.raises(DataError, match="its weights are not shipped, so nothing is recorded"):
            zoo.golden(name)
    with pytest.raises(UsageError, match=r"no trained point 'mobilenet/wait-0.9': did you mean mobilenet/weight-0.9"):
        zoo.load("mobilenet/wait-0.9")
    with pytest.raises(UsageError, match="cannot be read"):
        zoo.load("nomodel/weight")
    file = recorded / "mobilenet-weight-0.9.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"mobilenet-weight-0.9.safetensors: sha256 is"):
        zoo.load("mobilenet/weight")


def test_a_file_of_a_points_name_is_the_file(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobilenet").mkdir()
    checkpoint.save(replace(zoo.draw(MODELS["mobilenet"]()), meta={}), tmp_path / "mobilenet" / "weight")
    assert "point" not in zoo.load("mobilenet/weight").meta


# What bench makes of them


def test_what_bench_times(recorded: Path) -> None:
    dense = zoo.load("mobilenet")
    images = artifacts.images("mobilenet", dense, 1, 0)

    def facts(technique: str, graph: Graph = dense, model: str = "mobilenet", **given: Any) -> dict[str, Any]:
        artifact = artifacts.make(model, graph, technique, images, recorded.parent, **given)
        keys = ("weights", "point", "stored_as", "level")
        assert checkpoint.load(artifact.graph_file).sha256() == artifact.sha256
        return {key: artifact.facts[key] for key in keys} | {"bytes": artifact.facts["stored_bytes"]}

    sizes = {point.name: point.stored_bytes for point in zoo.points()}
    name = "mobilenet/weight-magnitude-0.9-s0"
    trained = {"weights": "trained", "point": name, "stored_as": "float16", "level": 0.9, "bytes": sizes[name]}
    assert facts("weight") == facts("weight-0.9") == facts("weight-magnitude-0.9-s0") == trained
    shot = facts("weight", one_shot=True)
    assert (shot["weights"], shot["point"], shot["stored_as"], shot["level"]) == ("one-shot", None, "float32", 0.9)
    assert facts("int8")["weights"] == "one-shot"
    assert facts("ternary")["weights"] == "one-shot"  # nothing of it was trained
    assert facts("dense")["weights"] == "trained"
    drawn = facts("block")
    assert (drawn["weights"], drawn["point"]) == ("drawn", "mobilenet/block-magnitude-0.8-s0")
    assert facts("weight-magnitude-0.9-s1")["weights"] == "drawn"
    both = facts("channel+int8")
    assert (both["weights"], both["point"]) == ("trained", "mobilenet/channel+int8-fisher-0.9-s0")
    assert both["bytes"] == sizes["mobilenet/channel+int8-fisher-0.9-s0"]
    with pytest.raises(UsageError, match=r"no trained point 'mobilenet/weight-0.7'"):
        facts("weight-0.7")
    with pytest.raises(UsageError, match=r"unknown technique 'weight-0.9', wanted one of dense, weight"):
        facts("weight-0.9", model="mine.safetensors")

    thin = artifacts.source("mobilenet/channel", 0)
    own = facts("dense", thin, "mobilenet/channel")
    assert (own["weights"], own["point"]) == ("trained", "mobilenet/channel-fisher-0.9-s0")
    drawn = facts("dense", artifacts.source("mobilenet/block", 0), "mobilenet/block")
    assert (drawn["weights"], drawn["point"]) == ("drawn", "mobilenet/block-magnitude-0.8-s0")
    assert facts("weight", model="mine.safetensors")["weights"] == "one-shot"


def test_names_that_bench_takes_for_techniques(recorded: Path) -> None:
    assert request.techniques(None, ["mobilenet"]) == list(request.DEFAULT)
    asked = ["weight-0.9", "half", "channel+int8", "ternary+int8", "weight-0.9+half", "weight-magnitude-0.9-s1"]
    assert request.techniques(asked, ["mobilenet", "mine.safetensors"]) == asked
    for models in (["vgg16"], ["mine.safetensors"]):
        with pytest.raises(UsageError, match=r"unknown technique 'weight-0.9': did you mean 'weight'"):
            request.techniques("weight-0.9", models)


def test_top1_of_drawn_weights_is_the_trained_points(recorded: Path, tmp_path: Path) -> None:
    from refstack.benchmark import accuracy

    dense = zoo.load("mobilenet")
    images = artifacts.images("mobilenet", dense, 1, 0)
    for technique in ("weight", "block", "channel+int8"):
        artifact = artifacts.make("mobilenet", dense, technique, images, tmp_path)
        top1 = accuracy.recorded(dense, artifact)
        assert (top1.n, top1.source) == (20, "recorded:noise")
        assert top1.correct == zoo.point(f"mobilenet/{technique}").accuracy["noise"]["correct"]


def test_verbs_take_trained_points_and_nothing_drawn(recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    picture = recorded / "red.png"
    Image.new("RGB", (40, 40), (200, 30, 30)).save(picture)

    def classes(*arguments: str) -> Any:
        done = here(capfd, "classify", str(picture), "-m", "mobilenet", "-b", "numpy", "-f", "json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    trained = classes("-t", "weight-0.9")
    assert trained == classes("-t", "weight")
    assert trained != classes("-t", "weight", "--one-shot")  # float32 values, not float16 ones
    done = here(capfd, "classify", str(picture), "-m", "mobilenet", "-t", "block", "-b", "numpy")
    assert done.returncode == 2
    assert "mobilenet/block-magnitude-0.8-s0: its weights are not shipped, only its structure" in done.stderr
    done = here(capfd, "explain", "mobilenet", "-t", "block", "-b", "blas,numpy")
    assert done.returncode == 0
    assert "mobilenet/block-magnitude-0.8-s0: weights drawn at random" in done.stderr
    assert "conv2d.bsr.blas.scipy" in done.stdout
