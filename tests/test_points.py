"""Trained points: their names, their records, their structure with drawn weights, and how they get into data/."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from refstack import checkpoint
from refstack.benchmark import artifacts
from refstack.compression import compress
from refstack.compression.layers import recode
from refstack.compression.structure import build, structure
from refstack.datasets import Dataset, preprocess
from refstack.errors import ChecksumError, DataError, UsageError
from refstack.evaluation import evaluate
from refstack.formats import Array, Bsr, Csr
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.models.points import Layer, Point, choose, hint, manifest_text, parse
from refstack.reference import run

ACCURACY = {"noise": {"top1": 12.5, "correct": 5, "n": 40}}


def a_point(technique: str = "weight", **changes: Any) -> Point:
    layers = (Layer("conv1", "dense", 2, 3, 6),)
    point = Point("vgg16", technique, "magnitude", 0.9, 0, layers, 6, 60, 6, 24, ACCURACY)
    return replace(point, **changes)


# Names and records


def test_names() -> None:
    assert a_point().name == "vgg16/weight-magnitude-0.9-s0"
    assert a_point().names == ("vgg16/weight-magnitude-0.9-s0", "vgg16/weight-0.9", "vgg16/weight")
    assert a_point("int8", method="ptq", level=None).names == ("vgg16/int8-ptq-s0", "vgg16/int8")


def test_a_short_name_is_the_first_point_with_weights() -> None:
    random, first = a_point(method="random"), a_point(level=0.5)
    third, shipped = a_point(seed=2), a_point(seed=1, file="f")
    points = [random, first, third, shipped]
    assert choose(points, "vgg16/weight") is shipped
    assert choose(points, "vgg16/weight-0.9") is shipped
    assert choose(points, "vgg16/weight-0.5") is first
    assert choose(points, third.name) is third
    assert choose(points[:3], "vgg16/weight") is random
    assert choose(points, "vgg16/channel") is None
    assert "did you mean vgg16/weight-0.9, " in str(hint(points, "vgg16/wieght-0.9"))


def test_records_come_back() -> None:
    points = [
        a_point(facts={"recipe": {"epochs": 3}}),
        a_point(seed=1, file="a", sha256="b", golden="c", golden_sha256="d"),
        a_point("half", level=None),
    ]
    text = manifest_text({"schema_version": 1, "checkpoints": {}, "points": points})
    content = json.loads(text)
    assert parse(content["points"], "here") == points
    assert manifest_text(content) == text
    assert len(text.splitlines()) == 8 + 1, "a line for each point"
    assert json.loads(manifest_text({"schema_version": 1})) == {"schema_version": 1}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p.pop("layers"), "here: point 1: lacks layers; install refstack again"),
        (lambda p: p.update(params=-1), "a field is not of its type, or a file has no hash"),
        (lambda p: p.update(params=True), "a field is not of its type"),
        (lambda p: p.update(seed="0"), "a field is not of its type"),
        (lambda p: p.update(technique=3), "a field is not of its type"),
        (lambda p: p.update(level="0.9"), "a field is not of its type"),
        (lambda p: p.update(accuracy=[]), "a field is not of its type"),
        (lambda p: p.update(layers={}), "a field is not of its type"),
        (lambda p: p.update(file="x.safetensors"), "a file has no hash"),
        (lambda p: p["layers"][0].pop(), r"layer \['conv1', 'dense', 2, 3\], wanted .name, format, rows, cols"),
        (lambda p: p["layers"][0].__setitem__(4, "6"), "layer .* wanted"),
        (lambda p: p["layers"][0].__setitem__(1, "coo"), "layer conv1 has the unknown format 'coo'; update refstack"),
        (lambda p: p.update(seed=0), "here: point 1: vgg16/weight-magnitude-0.9-s0 stands there twice"),
    ],
)
def test_records_that_are_none(change: Callable[[dict[str, Any]], object], match: str) -> None:
    entries = [a_point().as_json(), a_point(seed=1).as_json()]
    change(entries[1])
    with pytest.raises(DataError, match=match):
        parse(entries, "here")
    for bad in ({}, None, "points"):
        with pytest.raises(DataError, match=r"here: points are \w+, wanted a list"):
            parse(bad, "here")
    with pytest.raises(DataError, match="point 0: lacks accuracy, layers"):
        parse([1], "here")


# Structure


def compressed(technique: str, source: Graph) -> Graph:
    """A network like a trained point's; for two techniques, one after the other."""
    if technique == "block":
        dense = compress(source, "weight", 0.0)
        names = [node.name for node in dense if isinstance(node.weight, Csr)]
        return recode(dense, {name: blocks(dense[name].weight.decode()) for name in names})
    first, _, then = technique.partition("+")
    graph = compress(source, first)
    return compress(graph, then) if then else graph


def blocks(matrix: Array) -> Bsr:
    """A third of the blocks of 16 x 1, whole ones."""
    kept = np.random.default_rng(0).random((-(-len(matrix) // 16), matrix.shape[1])) < 0.3
    return Bsr.encode(matrix * np.repeat(kept, 16, axis=0)[: len(matrix)])


def point_of(technique: str, graph: Graph, **changes: Any) -> Point:
    size = checkpoint.stored_bytes(graph, "float16")
    facts = {"params": graph.params, "macs": graph.macs, "nnz": graph.nnz, "stored_bytes": size}
    return a_point(technique, model="mobilenet", layers=structure(graph), **facts, **changes)


TECHNIQUES = ("dense", "weight", "block", "channel", "ternary", "int8", "half", "channel+int8")


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_network_is_built_like_the_point(technique: str) -> None:
    graph = compressed(technique, zoo.draw(MODELS["mobilenet"](), 5))
    point = point_of(technique, graph)
    like = build(point, 3)
    assert (like.params, like.macs) == (graph.params, graph.macs)
    assert [replace(line, nnz=0) for line in structure(like)] == [replace(line, nnz=0) for line in point.layers]
    sparse = [line for line in structure(like) if line.format in ("csr", "bsr", "ternary")]
    assert sparse == [line for line in point.layers if line.format in ("csr", "bsr", "ternary")]
    assert bool(sparse) == (technique in ("weight", "block", "ternary"))
    assert abs(checkpoint.stored_bytes(like, "float16") / point.stored_bytes - 1) < 0.005  # columns are elsewhere
    assert like.meta["technique"] == "drawn"
    assert like.meta["point"] == point.name
    assert like.sha256() == build(point, 3).sha256() != build(point, 4).sha256()
    assert np.isfinite(run(like, np.zeros((1, 3, 32, 32), np.float32))).all()


def test_a_record_that_fits_no_network() -> None:
    point = point_of("channel", compressed("channel", zoo.draw(MODELS["mobilenet"]())))
    lines = list(point.layers)
    with pytest.raises(DataError, match="layers fc are recorded or in mobilenet, not both"):
        build(replace(point, layers=tuple(lines[:-1])))
    lines[2] = replace(lines[2], cols=5)
    with pytest.raises(DataError, match=r"the record says Layer\(name='pw1'.*cols=5.*, a network like it has Layer"):
        build(replace(point, layers=tuple(lines)))


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
    return folder


@pytest.fixture
def judge() -> Dataset:
    images = np.random.default_rng(1).integers(0, 256, (20, 3, 32, 32), np.uint8)
    return Dataset("noise", images, np.arange(20) % 10, "sha", "here", tuple(f"{i}.png" for i in range(20)))


def train(data: Path, judge: Dataset, out: Path, technique: str, method: str, level: float, seed: int = 0) -> None:
    """What training would leave: a record, a network, and what it computes."""
    graph = compressed(technique, zoo.load("mobilenet"))
    checkpoint.save(graph, out / "first.safetensors", "float16")
    graph = checkpoint.load(out / "first.safetensors")
    (out / "first.safetensors").unlink()
    y = run(graph, preprocess(judge.images))
    second, first = np.sort(y, axis=1)[:, -2:].T
    predictions = y.argmax(axis=1).astype(np.uint8)
    correct = int((predictions == judge.labels).sum())
    golden = {
        "inputs": judge.images[:2], "logits": y[:2], "logits64": run(graph, preprocess(judge.images[:2]).astype(float)),
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
    (out / "other.json").write_text("{}")
    tool.record(out, data, [judge], lambda text: None)
    return data


def test_training_comes_in(recorded: Path, judge: Dataset) -> None:
    points = {point.name: point for point in zoo.points()}
    assert list(points) == [
        "mobilenet/weight-magnitude-0.9-s0", "mobilenet/weight-magnitude-0.9-s1", "mobilenet/block-magnitude-0.8-s0",
        "mobilenet/channel-fisher-0.9-s0", "mobilenet/int8-ptq-s0", "mobilenet/half-ptq-s0",
        "mobilenet/channel+int8-ptq-0.9-s0",
    ]  # fmt: skip
    shipped = {name for name, point in points.items() if point.file}
    assert shipped == {"mobilenet/weight-magnitude-0.9-s0", "mobilenet/channel-fisher-0.9-s0"}
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
    assert {point.technique for point in zoo.points()} == {"int8", "half"}


@pytest.mark.parametrize("what", ["predictions", "count", "layers", "params"])
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
    else:
        record["params"] += 1
    stem.with_suffix(".json").write_text(json.dumps(record))
    checkpoint.save_arrays(arrays, f"{stem}.golden.safetensors")
    match = {"layers": "is not what its record says", "params": "not as recorded"}.get(what, "of noise right, the rec")
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
    assert (both["weights"], both["point"]) == ("trained", "mobilenet/channel+int8-ptq-0.9-s0")
    assert both["bytes"] == sizes["mobilenet/channel+int8-ptq-0.9-s0"]
    with pytest.raises(UsageError, match=r"no trained point 'mobilenet/weight-0.7'"):
        facts("weight-0.7")

    thin = artifacts.source("mobilenet/channel", 0)
    own = facts("dense", thin, "mobilenet/channel")
    assert (own["weights"], own["point"]) == ("trained", "mobilenet/channel-fisher-0.9-s0")
    drawn = facts("dense", artifacts.source("mobilenet/block", 0), "mobilenet/block")
    assert (drawn["weights"], drawn["point"]) == ("drawn", "mobilenet/block-magnitude-0.8-s0")
    assert facts("weight", model="mine.safetensors")["weights"] == "one-shot"


def test_top1_of_drawn_weights_is_the_trained_points(recorded: Path, tmp_path: Path) -> None:
    from refstack.benchmark import accuracy

    dense = zoo.load("mobilenet")
    images = artifacts.images("mobilenet", dense, 1, 0)
    for technique in ("weight", "block", "channel+int8"):
        artifact = artifacts.make("mobilenet", dense, technique, images, tmp_path)
        top1 = accuracy.recorded(dense, artifact)
        assert (top1.n, top1.source) == (20, "recorded:noise")
        assert top1.correct == zoo.point(f"mobilenet/{technique}").accuracy["noise"]["correct"]
