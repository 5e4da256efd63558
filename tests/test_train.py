"""The shipped checkpoints are what the manifest says, the engine computes what PyTorch computed, training trains."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import chain, images, integers, small
from PIL import Image

from refstack import checkpoint, datasets, ops
from refstack.datasets import CLASSES, preprocess
from refstack.errors import BackendUnavailable, DataError, RefstackError, UsageError
from refstack.formats import Array, Dense
from refstack.graph import INPUT, Graph, Node
from refstack.models import MODELS, zoo
from refstack.reference import run
from refstack.train import RECIPES, Recipe, train
from refstack.train.__main__ import main

TARGETS = {"resnet18": 93.0, "vgg16": 91.5, "mobilenet": 90.5}  # percent of cifar10-lossless-val
SETS = {"cifar10-lossless-val": 2000, "cifar10-jpeg75-test": 10000}
ARCHIVES = {"cifar10-lossless-val": "val-lossless.tar.xz", "cifar10-jpeg75-test": "test.tar.xz"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What is shipped


def test_manifest_lists_every_model_and_nothing_else() -> None:
    entries = zoo.manifest()
    assert set(entries) == set(MODELS) == set(RECIPES)
    named = {entry[key] for entry in entries.values() for key in ("file", "golden")}
    named |= {name for point in zoo.points() for name in (point.file, point.golden) if name}
    assert named == {path.name for path in zoo.data_dir().glob("*.safetensors")}


@pytest.mark.parametrize("model", MODELS)
def test_manifest_entry(model: str) -> None:
    entry = zoo.manifest()[model]
    assert set(entry) == {
        "model", "technique", "recipe", "data", "device", "torch", "train_s", "file", "golden", "sha256",
        "golden_sha256", "date", "accuracy",
    }  # fmt: skip
    assert entry["sha256"] == sha256(zoo.data_dir() / entry["file"])
    assert entry["golden_sha256"] == sha256(zoo.data_dir() / entry["golden"])
    assert (entry["model"], entry["technique"]) == (model, "dense")
    assert Recipe(**entry["recipe"]) == RECIPES[model], "the checkpoint was not made by the recipe in the code"
    assert entry["data"]["name"] == "cifar10-jpeg75-train"
    assert datasets.PUBLISHED[entry["data"]["sha256"]] == entry["data"]["name"]
    assert {name: accuracy["n"] for name, accuracy in entry["accuracy"].items()} == SETS
    for accuracy in entry["accuracy"].values():
        assert accuracy["top1"] == 100 * accuracy["correct"] / accuracy["n"]
    assert entry["accuracy"]["cifar10-lossless-val"]["top1"] >= TARGETS[model]


@pytest.mark.parametrize("model", MODELS)
def test_checkpoint_is_the_model_with_float16_matrices(model: str) -> None:
    graph, wanted = zoo.load(model), MODELS[model]()
    assert [(n.name, n.op, n.inputs) for n in graph] == [(n.name, n.op, n.inputs) for n in wanted]
    assert graph.params == wanted.params
    matrices = 0
    for node in graph:
        if isinstance(node.op, ops.Conv2d | ops.Linear) and node.weight is not None:
            values = node.weight.decode()
            assert np.array_equal(values.astype(np.float16).astype(np.float32), values)
            matrices += values.size
    vectors = (graph.stored_bytes - 4 * matrices) // 4
    size = (zoo.data_dir() / zoo.manifest()[model]["file"]).stat().st_size
    assert 0 < size - 2 * matrices - 4 * vectors < 40_000, "the rest is the header"


@pytest.mark.parametrize("model", MODELS)
def test_golden_file(model: str) -> None:
    golden = zoo.golden(model)
    assert golden["inputs"].dtype == np.uint8
    assert golden["inputs"].shape == (16, 3, 32, 32)
    assert golden["inputs"].std() > 30, "pictures, not a constant"
    assert (golden["logits"].dtype, golden["logits64"].dtype) == (np.float32, np.float64)
    assert len(np.unique(golden["logits64"].argmax(axis=1))) > 1
    assert set(golden) == {"inputs", "logits", "logits64"} | {
        f"{k}.{s}" for k in ("predictions", "margin") for s in SETS
    }
    for name, n in SETS.items():
        predictions, margin = golden[f"predictions.{name}"], golden[f"margin.{name}"]
        assert (predictions.dtype, margin.dtype) == (np.uint8, np.float16)
        assert predictions.shape == margin.shape == (n,)
        assert (np.bincount(predictions, minlength=10) > 0.8 * n / 10).all()
        assert (margin >= 0).all()


# The engine against PyTorch. Two float32 evaluations of one network differ in the order of their sums alone, so their
# error is of one size; the engine's own is its distance from its float64 run, and float64 roundings are 2**29 times
# smaller. 8 leaves room for an unlucky order.


def disagreement(graph: Graph, golden: dict[str, Array]) -> float:
    """Largest distance from PyTorch's logits over what is allowed, in both precisions: at most 1 unless they differ."""
    x = preprocess(golden["inputs"])
    y, y64 = run(graph, x), run(graph, x.astype(np.float64))
    assert y.shape == golden["logits"].shape == golden["logits64"].shape == (16, 10)
    allowed = 8 * np.abs(y - y64).max()
    worst = np.abs(y - golden["logits"]).max() / allowed
    return float(max(worst, np.abs(y64 - golden["logits64"]).max() / (allowed * 2.0**-29)))


def nudged(node: Node) -> Node:
    """The node with one weight moved by a part in a million."""
    assert node.weight is not None
    values = node.weight.decode()
    values.flat[np.abs(values).argmax()] *= np.float32(1 + 1e-6)
    return replace(node, weight=Dense.encode(values))


FAULTS: dict[str, Callable[[Node], Node]] = {
    "a weight off by a millionth": lambda node: nudged(node) if node.name == "conv1" else node,
    "eps of one batch-norm": lambda node: replace(node, op=ops.BatchNorm(2e-5)) if node.name == "dw7_bn" else node,
    "statistics of a channel": lambda node: (
        replace(node, mean=node.mean + np.float32(1e-4)) if node.name == "pw3_bn" and node.mean is not None else node
    ),
    "relu6 for relu": lambda node: replace(node, op=ops.ReLU("relu6")) if node.name == "dw1_relu" else node,
}


@pytest.mark.parametrize("model", MODELS)
def test_engine_reproduces_the_golden_logits(model: str) -> None:
    assert disagreement(zoo.load(model), zoo.golden(model)) <= 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_network_misses_the_golden_logits(fault: str) -> None:
    graph = zoo.load("mobilenet")
    wrong = graph.with_nodes([FAULTS[fault](node) for node in graph])
    assert not disagreement(wrong, zoo.golden("mobilenet")) <= 1


@pytest.fixture(scope="module")
def judges(cifar10: Path) -> Callable[[str], datasets.Dataset]:
    """A published set by its name, read once."""
    return functools.cache(lambda name: datasets.load(cifar10 / ARCHIVES[name]))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("model", MODELS)
def test_predictions_give_the_recorded_accuracy(
    model: str, name: str, judges: Callable[[str], datasets.Dataset]
) -> None:
    dataset = judges(name)
    predictions, entry = zoo.golden(model)[f"predictions.{name}"], zoo.manifest()[model]
    assert dataset.name == name
    assert (predictions == dataset.labels).sum() == entry["accuracy"][name]["correct"]
    assert (predictions == np.roll(dataset.labels, 1)).sum() != entry["accuracy"][name]["correct"], (
        "order is judged too"
    )


@pytest.mark.parametrize("model", MODELS)
def test_engine_reproduces_predictions(model: str, judges: Callable[[str], datasets.Dataset]) -> None:
    name, golden, graph = "cifar10-lossless-val", zoo.golden(model), zoo.load(model)
    chosen = judges(name).images[::67]
    y = run(graph, preprocess(chosen))
    second, first = np.sort(y, axis=1)[:, -2:].T
    predictions, margin = (golden[f"{what}.{name}"][::67] for what in ("predictions", "margin"))
    # float16 keeps 11 bits: the margin is stored to half a unit in the last of them
    assert (np.abs((first - second) - margin) <= margin.astype(np.float64) * 2.0**-11 + 1e-4).all()
    clear = margin > 1e-3
    assert clear.sum() >= 25
    assert np.array_equal(y.argmax(axis=1)[clear], predictions[clear])


# Refusals, all of them without PyTorch


def test_without_pytorch_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    wanted = r'training needs PyTorch, which cannot be imported \(.*\); pip install "refstack-engine\[train\]"'
    with pytest.raises(BackendUnavailable, match=wanted):
        train("mobilenet", tmp_path, tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "mobilenet", "--data", str(tmp_path), "--out", str(tmp_path)])
    assert main() == 3
    assert "BackendUnavailable: training needs PyTorch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_model() -> None:
    with pytest.raises(UsageError, match="no model 'lenet', wanted one of vgg16, resnet18, mobilenet"):
        train("lenet", Path(), Path())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "recipe: epochs is 0, wanted at least 1"),
        ("lr", -0.1, "recipe: lr is -0.1, wanted at least 0"),
        ("lr", float("nan"), "recipe: lr is nan, wanted at least 0"),
        ("warmup", 1.0, "recipe: warmup is 1.0, wanted a share"),
    ],
)
def test_recipe_refuses(field: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**{field: value})


# With PyTorch


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason='PyTorch is not installed: pip install "refstack-engine[train]"')


def every_layer() -> Graph:
    """Each layer that can be trained, each attribute away from its default, on a map that is not square."""
    window: Any = {"kernel": (3, 2), "stride": (2, 1), "padding": (2, 1, 2, 1), "dilation": (2, 1)}
    nodes = (
        Node("conv", ops.Conv2d(**window, out_channels=6, groups=3, activation="relu6"), (INPUT,)),
        Node("bn", ops.BatchNorm(0.5), ("conv",)),
        Node("sum", ops.Add("relu"), ("bn", "conv")),
        Node("pool", ops.MaxPool2d(**(window | {"padding": (1, 1, 1, 1)})), ("sum",)),
        Node("mean", ops.GlobalAvgPool(), ("pool",)),
        Node("flat", ops.Flatten(), ("mean",)),
        Node("fc", ops.Linear(5, "relu"), ("flat",)),
        Node("relu6", ops.ReLU("relu6"), ("fc",)),
    )
    graph = Graph("every", (3, 9, 8), nodes)
    shapes = graph.shapes()
    filled = []
    for node in nodes:
        shape = node.op.weight_shape(shapes[node.inputs[0]])
        vector = None if shape is None else np.zeros(shape[0], np.float32)
        weight = None if shape is None else Dense.encode(np.zeros(shape, np.float32))
        statistics = {"mean": vector, "var": vector} if isinstance(node.op, ops.BatchNorm) else {}
        filled.append(replace(node, weight=weight, bias=vector, **statistics))
    return integers(graph.with_nodes(filled))


@pytest.mark.parametrize("make", [every_layer, *(lambda make=make: zoo.draw(make()) for make in MODELS.values())])
def test_graph_to_pytorch_and_back(make: Callable[[], Graph], torch: Any) -> None:
    from refstack.train.torch_graph import from_graph, to_graph

    graph = make()
    assert to_graph(from_graph(graph)).sha256() == graph.sha256()


def test_pytorch_computes_the_formulas(torch: Any) -> None:
    from refstack.train.torch_graph import from_graph, logits

    for graph in (every_layer(), integers(chain())):
        x = images(graph, 5, whole=True).astype(np.float64)
        y = run(graph, x)
        assert np.unique(y).size > 3
        # float64 is exact on these integers but for the mean, so a rounding or two is all that may differ
        np.testing.assert_allclose(logits(from_graph(graph), x, batch=2), y, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_trained_is_named(torch: Any) -> None:
    from refstack.train.torch_graph import from_graph

    with pytest.raises(UsageError, match="cat: concat cannot be trained; train the network before it is compressed"):
        from_graph(small())
    lopsided = replace(chain()["a"], op=ops.Conv2d((3, 3), padding=(1, 1, 0, 1), out_channels=6))
    with pytest.raises(UsageError, match=r"a: padding \(1, 1, 0, 1\) differs on opposite sides"):
        from_graph(Graph("lopsided", (3, 8, 8), (lopsided,)))


def test_learning_rate(torch: Any) -> None:
    from refstack.train.fit import rate

    assert [rate(t, 0.2) for t in (0.0, 0.1, 0.2, 0.6)] == pytest.approx([0.04, 0.52, 1.0, 0.5])
    assert 0 < rate(1 - 1e-3, 0.2) < 1e-5


@pytest.mark.parametrize("cutout", [0, 8])
def test_augmentation_is_a_window_mirrored_and_blanked(cutout: int, torch: Any) -> None:
    from refstack.train.fit import augment

    picture = np.random.default_rng(0).integers(1, 256, (3, 32, 32)).astype(np.uint8)
    padded = np.pad(picture, ((0, 0), (4, 4), (4, 4)))
    got = augment(
        torch.from_numpy(np.stack([padded] * 64)), Recipe(cutout=cutout), torch.Generator().manual_seed(1)
    ).numpy()
    windows = {(y, x): padded[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)}
    seen = set()
    for out in got:
        blank = (out == 0).all(axis=0)
        rows, columns = np.flatnonzero(blank.any(axis=1)), np.flatnonzero(blank.any(axis=0))
        assert blank.sum() == len(rows) * len(columns), "the blank is a rectangle"
        assert (4 <= len(rows) <= 8 and 4 <= len(columns) <= 8) if cutout else not blank.any()
        fits = [
            (at, flip)
            for at, window in windows.items()
            for flip in (1, -1)
            if np.abs(preprocess(window[None, :, :, ::flip])[0] - out)[:, ~blank].max() < 1e-5
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 40
    assert {flip for _, flip in seen} == {1, -1}


def pictures(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Two shades to tell apart, as 8 x 8 images."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(seed).integers(0, 60, (n, 3, 8, 8))
    return (noise + 120 * labels[:, None, None, None]).astype(np.uint8), labels


def test_training_learns_and_repeats(torch: Any) -> None:
    from refstack.train.fit import fit

    recipe, lines = Recipe(epochs=6, batch=16, lr=0.05, crop=1, cutout=2), []
    (x, labels), (unseen, truth) = pictures(96), pictures(40, seed=9)
    graph = fit(chain(), x, labels, recipe, "cpu", lines.append)
    graph.check()
    assert (run(graph, preprocess(unseen)).argmax(axis=1) == truth).mean() >= 0.9
    assert (run(chain(), preprocess(unseen)).argmax(axis=1) == truth).mean() <= 0.6, "untrained weights must not do"
    assert "chain: about" in lines[0]
    assert len(lines) == 7
    assert fit(chain(), x, labels, recipe, "cpu", lines.append).sha256() == graph.sha256()
    assert fit(chain(), x, labels, replace(recipe, seed=1), "cpu", lines.append).sha256() != graph.sha256()
    with pytest.raises(RefstackError, match=r"chain: the loss is nan in epoch \d; lower lr from"):
        fit(chain(), x, labels, replace(recipe, lr=1e30), "cpu", lines.append)
    with pytest.raises(UsageError, match="chain: no images to train on"):
        fit(chain(), x[:0], labels[:0], recipe, "cpu", lines.append)


def archive(path: Path, per_class: int) -> None:
    with tarfile.open(path, "w:xz") as tar:
        for i, name in enumerate(CLASSES * per_class):
            content = io.BytesIO()
            Image.new("RGB", (32, 32), (25 * (i % 10), 100, 250 - 25 * (i % 10))).save(content, "PNG")
            member = tarfile.TarInfo(f"{path.name.split('.')[0]}/{name}/{i:04d}.png")
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)


def test_train_writes_what_the_zoo_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], torch: Any
) -> None:
    monkeypatch.setitem(RECIPES, "mobilenet", Recipe(epochs=2, batch=8))
    archive(tmp_path / "train.tar.xz", 2)
    with pytest.raises(DataError, match=r"beside train.tar.xz wanted at least one of val-lossless.tar.xz, test.tar.xz"):
        train("mobilenet", tmp_path, tmp_path / "out", device="cpu")
    archive(tmp_path / "test.tar.xz", 1)
    out = tmp_path / "out"
    argv = ["train", "mobilenet", "--data", str(tmp_path), "--out", str(out), "--device", "cpu", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", argv)
    assert main() == 0
    assert "mobilenet: 20 images of train, judged by test" in capsys.readouterr().out

    monkeypatch.setattr(zoo, "data_dir", lambda: out)
    entry, golden, graph = zoo.manifest()["mobilenet"], zoo.golden("mobilenet"), zoo.load("mobilenet")
    assert entry["recipe"] == asdict(Recipe(epochs=1, batch=8))
    judge = datasets.load(tmp_path / "test.tar.xz")
    predictions = run(graph, preprocess(judge.images)).argmax(axis=1)
    assert np.array_equal(predictions, golden["predictions.test"])
    assert entry["accuracy"] == {"test": {"top1": 10.0 * (predictions == judge.labels).sum(),
                                          "correct": (predictions == judge.labels).sum(), "n": 10}}  # fmt: skip
    assert disagreement(graph, golden) <= 1
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["checkpoints"] = {"vgg16": entry}
    (out / "manifest.json").write_text(json.dumps(manifest))
    train("mobilenet", tmp_path, out, device="cpu", report=lambda line: None)
    assert set(zoo.manifest()) == {"vgg16", "mobilenet"}, "other models' entries stay"
    assert checkpoint.load(out / "mobilenet.safetensors").meta["recipe"]["epochs"] == 2
