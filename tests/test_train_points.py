"""Compression while training: the loop does what the NumPy formulas say, and a point's files are what was trained."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import chain, matrix

from refstack import checkpoint
from refstack.compression import fisher
from refstack.compression.layers import layers
from refstack.compression.masks import masks
from refstack.compression.ternary import gradients, quantise, start
from refstack.datasets import Dataset, preprocess
from refstack.errors import BackendUnavailable, UsageError
from refstack.formats import Csr, Dense, Ternary
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.models.builder import Builder
from refstack.reference import run
from refstack.train import METHODS, FineTune, compress
from refstack.train.__main__ import main
from refstack.train.recipe import recipe_of

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install "refstack-engine[train]"')

from refstack.train import points as points_module  # noqa: E402
from refstack.train import pruning, sweep  # noqa: E402
from refstack.train.channels import ChannelPruning, saliency  # noqa: E402
from refstack.train.fit import tune  # noqa: E402
from refstack.train.points import Material, Point, produce  # noqa: E402
from refstack.train.ternary import Ternarize, TernaryTraining  # noqa: E402
from refstack.train.torch_graph import from_graph  # noqa: E402

QUICK = FineTune(epochs=3, batch=16, lr=0.05, crop=1, cutout=2, events=4, multiple=2, saliency_images=32)


def tiny() -> Graph:
    """Residual, depthwise and linear layers in little, for 32 x 32 images; trained a bit by nobody."""
    net = Builder("tiny", (3, 32, 32)).conv("stem", 8, 3, stride=4, padding=1).batchnorm().relu()
    x = net.last
    main = net.conv("mid", 12, 3, padding=1).batchnorm().relu().conv("back", 8, 3, padding=1).batchnorm().last
    net.add("add", main, x).relu()
    net.conv("pw1", 16, 1).batchnorm().relu().conv("dw", 16, 3, padding=1, groups=16).batchnorm().relu()
    net.conv("pw2", 16, 1).batchnorm().relu()
    return zoo.draw(net.globalavgpool().flatten().linear("fc", 10).graph(), 3)


def pictures(n: int, side: int = 32, classes: int = 10) -> Dataset:
    """Shades of grey to tell apart."""
    labels = np.arange(n) % classes
    noise = np.random.default_rng(n).integers(0, 20, (n, 3, side, side))
    images = (noise + 235 // classes * labels[:, None, None, None]).astype(np.uint8)
    return Dataset(f"grey{n}", images, labels, f"{n}", "made up", tuple(str(i) for i in range(n)))


def tuned(graph: Graph, technique: Any, recipe: FineTune = QUICK, teacher: Graph | None = None) -> Graph:
    side = graph.input_shape[1]
    data = pictures(64, side, 4 if graph.name == "chain" else 10)
    out = tune(graph, data.images, data.labels, recipe, technique, teacher, "cpu", lambda line: None)
    out.check()
    return out


# The loop and the formulas


@pytest.mark.parametrize("block", [(1, 1), (2, 1), (4, 3)])
@pytest.mark.parametrize("scope", ["layer", "global", "lamp"])
def test_masks_are_those_of_numpy(scope: Any, block: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    matrices = {f"m{i}": rng.integers(-5, 6, shape).astype(np.float32) for i, shape in enumerate([(9, 7), (4, 6)])}
    ours = masks(matrices, 0.7, scope, block)
    theirs = pruning.masks({name: torch.tensor(m) for name, m in matrices.items()}, 0.7, scope, block)
    for name, mask in ours.items():
        assert np.array_equal(theirs[name].numpy(), mask)


def test_ternary_function_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, 5, 8))
    scales = start(w, 0.3)
    latent, positive, negative = (
        torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (w, *scales[1:])
    )
    y = Ternarize.apply(latent, positive, negative, scales[0], 0.3)
    np.testing.assert_allclose(y.detach().numpy(), quantise(w, *scales, 0.3), rtol=1e-12)
    y.backward(torch.tensor(g))
    wanted = gradients(g, w, *scales, 0.3)
    np.testing.assert_allclose(latent.grad.numpy(), wanted.latent, rtol=1e-12)
    assert float(positive.grad) == pytest.approx(wanted.positive)
    assert float(negative.grad) == pytest.approx(wanted.negative)


def test_saliency_is_activations_times_gradients() -> None:
    graph = zoo.draw(chain(), 1)
    data = pictures(12, 8, 4)
    x, labels = torch.tensor(preprocess(data.images)), torch.tensor(data.labels)
    module = from_graph(graph)
    found = saliency(module, ["b", "fc1"], [(x[:8], labels[:8]), (x[8:], labels[8:])])
    assert module.training
    assert not module.gates
    for unit, value in (("b", "b_relu"), ("fc1", "fc1_relu")):
        kept: list[Any] = []

        def keep(_module: Any, _inputs: Any, output: Any, kept: list[Any] = kept) -> Any:
            # the module of a ReLU node passes its input on: hand on a leaf and apply the ReLU in its place
            kept.append(output.clamp(min=0).detach().requires_grad_())
            return kept[-1]

        module.eval()
        handle = module.layers[value].register_forward_hook(keep)
        torch.nn.functional.cross_entropy(module(x), labels, reduction="sum").backward()
        handle.remove()
        products = (kept[0] * kept[0].grad).flatten(2).sum(2) if kept[0].ndim > 2 else kept[0] * kept[0].grad
        np.testing.assert_allclose(found[unit], fisher.saliency(products.detach().numpy()), rtol=1e-4)
        assert (found[unit] > 0).any()


def test_weights_that_went_stay_away() -> None:
    graph = tiny()
    names = pruning.prunable(graph)
    assert names == ["mid", "back", "pw1", "pw2", "fc"], "not the first convolution, not depthwise ones"
    seen: list[float] = []

    class Watched(pruning.WeightPruning):
        def after_step(self) -> None:
            super().after_step()
            sizes = [(weight == 0).float().mean() for weight in self.weights]
            seen.append(float(torch.stack(sizes).mean()))

    out = tuned(graph, Watched(replace(QUICK, scope="layer"), 0.75))
    for name in names:
        got = matrix(out, name)
        assert (got == 0).sum() == int(0.75 * got.size)
        assert not np.array_equal(got[got != 0], matrix(graph, name)[got != 0]), "the others are trained"
    assert (matrix(out, "stem") != 0).all()
    assert seen == sorted(seen), "level after level"
    assert len({round(level, 2) for level in seen}) >= 3
    again = [tuned(graph, pruning.WeightPruning(QUICK, 0.75, "random")) for _ in range(2)]
    assert again[0].sha256() == again[1].sha256()
    assert again[0].nnz == tuned(graph, pruning.WeightPruning(replace(QUICK, scope="layer"), 0.75)).nnz


@pytest.mark.parametrize("method", METHODS["channel"])
def test_channels_are_gone_for_real(method: Any) -> None:
    graph = tiny()
    out = tuned(graph, ChannelPruning(QUICK, 0.5, method))
    assert out.params <= 0.5 * graph.params
    rows = {node.name: node.weight.shape[0] for node in layers(out) if node.weight}
    assert rows["mid"] < 12
    assert (rows["stem"], rows["back"], rows["fc"]) == (8, 8, 10), "what reaches an addition or the output stays"
    assert rows["dw"] == rows["pw1"], "depthwise follows"
    assert run(out, preprocess(pictures(2).images)).shape == (2, 10)


def test_a_short_run_still_reaches_its_level() -> None:
    recipe = replace(QUICK, epochs=1, batch=64)
    assert tuned(tiny(), ChannelPruning(recipe, 0.5)).params <= 0.5 * tiny().params
    out = tuned(tiny(), pruning.WeightPruning(recipe, 0.9))
    assert sum(np.count_nonzero(matrix(out, n)) for n in pruning.prunable(out)) <= 0.1 * out.params + 5


def test_ternary_training_leaves_three_values() -> None:
    graph = tiny()
    out = tuned(graph, TernaryTraining(QUICK))
    for name in ("mid", "back", "pw1", "pw2"):
        got = matrix(out, name)
        assert len(np.unique(got)) == 3
        Ternary.encode(got)
        assert not np.isclose(
            np.unique(got), np.unique(quantise(matrix(graph, name), *start(matrix(graph, name), 0.05), 0.05))
        ).all()
    assert len(np.unique(matrix(out, "dw"))) > 3
    assert len(np.unique(matrix(out, "fc"))) > 3


def test_the_teacher_s_loss() -> None:
    from refstack.train.fit import _teacher

    graph, x = tiny(), preprocess(pictures(6).images)
    y = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    heat, share = 2.0, 0.75
    loss = _teacher(graph, replace(QUICK, distill=share, temperature=heat), "cpu", False)
    assert loss is not None
    wanted, got = (np.exp(each / heat) for each in (run(graph, x), y))
    wanted, got = (each / each.sum(axis=1, keepdims=True) for each in (wanted, got))
    divergence = (wanted * np.log(wanted / got)).sum(axis=1).mean()
    found = float(loss(torch.tensor(1.5), torch.tensor(x), torch.tensor(y)))
    assert found == pytest.approx(0.25 * 1.5 + 0.75 * heat**2 * divergence, rel=1e-4)
    assert _teacher(None, QUICK, "cpu", False) is None
    assert _teacher(graph, replace(QUICK, distill=0), "cpu", False) is None


def test_the_network_learns_from_its_teacher() -> None:
    graph = tiny()
    teacher = tuned(graph, pruning.WeightPruning(QUICK, 0.0), replace(QUICK, distill=0))
    taught = tuned(graph, pruning.WeightPruning(QUICK, 0.0), replace(QUICK, distill=1), teacher)
    alone = tuned(graph, pruning.WeightPruning(QUICK, 0.0), replace(QUICK, distill=0), teacher)
    assert alone.sha256() == teacher.sha256() != taught.sha256()


# Points


@pytest.fixture
def material() -> Material:
    return Material(tiny(), pictures(80), [pictures(30)], "cpu", {"device": "here"})


CASES = {"weight": 0.8, "block": 0.5, "channel": 0.4, "ternary": 0.05, "int8": 0.0, "channel+ternary": 0.4,
         "channel+int8": 0.4, "weight+int8": 0.8}  # fmt: skip


@pytest.mark.parametrize("technique", METHODS)
def test_a_point_is_what_its_files_say(technique: str, material: Material, tmp_path: Path) -> None:
    point = Point("tiny", technique, CASES[technique])
    record = produce(point, material, tmp_path, QUICK, lambda line: None)
    assert record == json.loads((tmp_path / f"{point.name}.json").read_text())
    graph = checkpoint.load(tmp_path / f"{point.name}.safetensors")
    golden = checkpoint.load_arrays(tmp_path / f"{point.name}.golden.safetensors")
    assert graph.meta == record
    assert (record["params"], record["macs"], record["nnz"]) == (graph.params, graph.macs, graph.nnz)
    lines = {line["name"]: line for line in record["layers"]}
    for node in layers(graph):
        assert node.weight is not None
        line = lines.pop(node.name)
        assert (line["format"], line["rows"], line["cols"]) == (node.weight.format, *node.weight.shape)
        assert line["nnz"] == node.weight.nnz
        if isinstance(node.weight, Dense | Csr):
            values = node.weight.values
            assert np.array_equal(values.astype(np.float16).astype(np.float32), values)
    assert not lines
    judge = material.judges[0]
    y = run(graph, preprocess(judge.images))
    assert np.array_equal(y.argmax(axis=1), golden[f"predictions.{judge.name}"])
    correct = int((y.argmax(axis=1) == judge.labels).sum())
    assert record["accuracy"] == {judge.name: {"top1": 100 * correct / 30, "correct": correct, "n": 30}}
    if "int8" not in technique:
        assert record["recipe"]["epochs"] == QUICK.epochs

    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    lines_said: list[str] = []
    assert produce(point, material, tmp_path, QUICK, lines_said.append) == record, "a finished point is kept"
    assert "is there already" in lines_said[-1]
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_points_refuse() -> None:
    with pytest.raises(UsageError, match="no technique 'lasso', wanted one of weight"):
        Point("tiny", "lasso", 0.5)
    with pytest.raises(UsageError, match="weight has no method 'fisher', wanted magnitude, random"):
        Point("tiny", "weight", 0.5, method="fisher")
    with pytest.raises(UsageError, match=r"level is 1\.5, wanted a share"):
        Point("tiny", "weight", 1.5)


def test_recipes() -> None:
    recipe = FineTune().changed({"lr": "0.02", "epochs": "3", "block": "[4, 2]", "scope": "global", "flip": "false"})
    assert (recipe.lr, recipe.epochs, recipe.block, recipe.scope, recipe.flip) == (0.02, 3, (4, 2), "global", False)
    with pytest.raises(UsageError, match="no setting 'rate', wanted one of epochs, batch"):
        FineTune().changed({"rate": "1"})
    with pytest.raises(UsageError, match=r"lr is 'fast', wanted something like 0\.1"):
        FineTune().changed({"lr": "fast"})
    with pytest.raises(UsageError, match="events is 0, wanted at least 1"):
        FineTune().changed({"events": "0"})
    assert recipe_of("resnet18", "channel", "fisher", 0.93).epochs == 60
    assert recipe_of("resnet18", "channel", "random", 0.93) == recipe_of("vgg16", "channel", "fisher", 0.87)


# Sweep


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


def test_without_a_gpu_the_cpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="finds no CUDA device; use --device cpu"):
        compress("mobilenet", "weight", 0.9, tmp_path, tmp_path)
    assert points_module.TRAINED not in "".join(path.name for path in tmp_path.iterdir())


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
