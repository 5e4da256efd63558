"""Compression while training: the loop does what the NumPy formulas say, and a point's files are what was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import chain, matrix
from trainees import QUICK, pictures, tiny

from refstack import checkpoint
from refstack.compression import fisher
from refstack.compression.layers import layers
from refstack.compression.masks import masks
from refstack.compression.ternary import gradients, quantise, start
from refstack.datasets import preprocess
from refstack.errors import UsageError
from refstack.formats import Bsr, Csr, Dense, Ternary
from refstack.graph import Graph
from refstack.models import zoo
from refstack.reference import run
from refstack.train import METHODS, FineTune
from refstack.train.recipe import recipe_of

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install "refstack-engine[train]"')

from refstack.train import pruning  # noqa: E402
from refstack.train.channels import ChannelPruning, saliency  # noqa: E402
from refstack.train.fit import tune  # noqa: E402
from refstack.train.points import Material, Point, produce  # noqa: E402
from refstack.train.ternary import Ternarize, TernaryTraining  # noqa: E402
from refstack.train.torch_graph import from_graph  # noqa: E402


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
    found = saliency(module, {"b": ("b",), "fc1": ("fc1",)}, [(x[:8], labels[:8]), (x[8:], labels[8:])])
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


def test_saliency_of_a_stream_is_by_one_factor_on_all_that_write_it() -> None:
    """g by central differences: gamma and beta of every batch-norm that ends in the stream, times 1 +- step."""
    module = from_graph(tiny()).double()
    x, labels = torch.tensor(preprocess(pictures(3).images))[2:].double(), torch.tensor([2])
    found = saliency(module, {"stem": ("stem", "back")}, [(x, labels)])["stem"]
    norms, step = [module.layers[name] for name in ("stem_bn", "back_bn")], 1e-5
    module.eval()

    def loss(channel: int, factor: float) -> float:
        with torch.no_grad():
            vectors = [vector for norm in norms for vector in (norm.weight, norm.bias)]
            before = [float(vector[channel]) for vector in vectors]
            for vector, value in zip(vectors, before, strict=True):
                vector[channel] = factor * value
            y = float(torch.nn.functional.cross_entropy(module(x), labels))
            for vector, value in zip(vectors, before, strict=True):
                vector[channel] = value
        return y

    g = np.array([(loss(k, 1 + step) - loss(k, 1 - step)) / (2 * step) for k in range(8)])
    assert np.count_nonzero(g) >= 4
    np.testing.assert_allclose(found, g**2 / 2, rtol=1e-4, atol=1e-9)


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
    for method in ("uniform", "magnitude"):
        recipe = replace(QUICK, scope="lamp" if method == "uniform" else "layer")
        assert again[0].nnz == tuned(graph, pruning.WeightPruning(recipe, 0.75, method)).nnz


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("method", METHODS["channel"])
def test_channels_are_gone_for_real(method: Any, streams: bool) -> None:
    graph = tiny()
    out = tuned(graph, ChannelPruning(replace(QUICK, streams=streams, multiple=4), 0.5, method))
    assert out.params <= 0.5 * graph.params
    rows = {node.name: node.weight.shape[0] for node in layers(out) if node.weight}
    assert rows["mid"] < 12
    assert rows["stem"] == rows["back"], "what is added up goes together"
    assert rows["stem"] == 8 or streams, "or stays"
    assert rows["fc"] == 10, "the output stays"
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
        if isinstance(node.weight, Dense | Csr | Bsr):
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
    with pytest.raises(UsageError, match="weight has no method 'fisher', wanted magnitude, uniform, random"):
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
    assert recipe_of("resnet18", "channel").weight_of_params == 0.25
    assert recipe_of("resnet18", "channel+ternary") == recipe_of("vgg16", "ternary")
