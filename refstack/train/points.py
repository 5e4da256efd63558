"""One point of the study: a network, a technique, a level and a seed become a trained graph, its record and a file.

    OUT/<point>.json                    the record: recipe, structure of every layer, accuracies
    OUT/<point>.safetensors             the graph as it is run: batch-norm folded, weights in their format
    OUT/<point>.golden.safetensors      predictions and margins of every image judged by (publish.py)
    OUT/<point>.trained.safetensors     batch-norm not folded: what a technique on top of this one starts from

The record is written last, so what has a record is complete, and is not made again.
Next: study.py
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from refstack import checkpoint
from refstack.compression.layers import layers, recode
from refstack.datasets import Dataset
from refstack.errors import UsageError
from refstack.formats import Bsr, Csr, Dense, Ternary, Weight
from refstack.graph import Graph
from refstack.passes import prepare
from refstack.train.channels import ChannelPruning
from refstack.train.fit import tune
from refstack.train.pruning import WeightPruning, prunable
from refstack.train.publish import accuracies, golden
from refstack.train.recipe import METHODS, FineTune, recipe_of
from refstack.train.technique import Technique
from refstack.train.ternary import TernaryTraining, ternary_layers


@dataclass(frozen=True)
class Point:
    """What is asked for. `level` is the share of weights or of parameters that goes, or ternary's threshold."""

    model: str
    technique: str
    level: float
    seed: int = 0
    method: str = ""

    def __post_init__(self) -> None:
        if self.technique not in METHODS:
            raise UsageError(f"train: no technique {self.technique!r}, wanted one of {', '.join(METHODS)}")
        methods = METHODS[self.technique]
        if self.method and self.method not in methods:
            raise UsageError(f"train: {self.technique} has no method {self.method!r}, wanted {', '.join(methods)}")
        if not 0 <= self.level < 1:
            raise UsageError(f"train: level is {self.level}, wanted a share of at least 0 and below 1")
        object.__setattr__(self, "method", self.method or methods[0])

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.model}-{self.technique}-{self.method}-{100 * self.level:g}-seed{self.seed}"

    @property
    def base(self) -> Point | None:
        """The point whose network this one starts from; None is the dense network."""
        first, _, then = self.technique.partition("+")
        return replace(self, technique=first, method="") if then else None


@dataclass(frozen=True)
class Material:
    """What every point needs: the dense network, images to train on, sets to judge by, and where it all runs."""

    dense: Graph
    images: Dataset
    judges: Sequence[Dataset]
    device: Literal["cuda", "cpu"]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: Graph | None = None  # instead of the dense network


def produce(
    point: Point,
    material: Material,
    out: Path,
    recipe: FineTune | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a point, unless its record is there already, and the point below it if need be; return the record."""
    path = out / f"{point.name}.json"
    if path.exists():
        report(f"{point.name}: is there already ({path})")
        return json.loads(path.read_text("utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    recipe = replace(recipe or recipe_of(point.model, point.technique), seed=point.seed)
    if point.technique == "ternary":
        recipe = replace(recipe, threshold=point.level)
    start_graph = material.dense
    if point.base is not None:
        produce(point.base, material, out, _base_recipe(point, recipe), report)
        start_graph = checkpoint.load(out / f"{point.base.name}.trained.safetensors")
    images, start = material.images, time.monotonic()
    trained = tune(
        start_graph,
        images.images,
        images.labels,
        recipe,
        _technique(point, recipe),
        material.teacher or material.dense,
        material.device,
        lambda line: report(f"{point.name} {line}"),
    )
    seconds = round(time.monotonic() - start)
    graph = halved(encode(trained, point.technique, recipe))
    arrays = golden(graph, material.judges, material.device)
    record = {
        **dataclasses.asdict(point),
        "recipe": dataclasses.asdict(recipe),
        "layers": structure(graph),
        "params": graph.params,
        "macs": graph.macs,
        "nnz": graph.nnz,
        "accuracy": accuracies(arrays, material.judges),
        **material.facts,
        "date": datetime.date.today().isoformat(),
        "train_s": seconds,
    }
    if point.technique in BASES:
        checkpoint.save(trained, out / f"{point.name}.trained.safetensors")
    checkpoint.save(graph.with_nodes(graph.nodes, **record), out / f"{point.name}.safetensors", "float16")
    checkpoint.save_arrays(arrays, out / f"{point.name}.golden.safetensors")
    _write(path, record)
    words = (f"{accuracy['top1']:.2f} % of {name}" for name, accuracy in record["accuracy"].items())
    report(f"{point.name}: {', '.join(words)}, {seconds} s")
    return record


BASES = ("channel",)
"""Techniques on top of which another may come."""


def encode(trained: Graph, technique: str, recipe: FineTune) -> Graph:
    """The graph as it is run: folded, and in the format that the technique is for."""
    match technique.split("+")[-1]:
        case "ternary":
            return prepare(recode(trained, Ternary, ternary_layers(trained)))
        case "weight":
            return recode(prepare(trained), Csr, prunable(trained))
        case "block":
            return recode(prepare(trained), _blocks(prepare(trained), recipe, prunable(trained)))
    return prepare(trained)


def _blocks(graph: Graph, recipe: FineTune, names: Sequence[str]) -> dict[str, Bsr]:
    """The named layers' weights in the blocks in which they were pruned."""
    weights = {node.name: node.weight for node in graph if node.name in names and node.weight is not None}
    return {name: Bsr.encode(weight.decode(), recipe.block) for name, weight in weights.items()}


def halved(graph: Graph) -> Graph:
    """Weights of convolutions and linear layers rounded to float16, as files hold them; ternary scales stay."""
    names = {node.name for node in layers(graph)}
    return graph.with_nodes(
        [replace(node, weight=_halved(node.weight)) if node.name in names else node for node in graph]
    )


def _halved(weight: Weight | None) -> Weight | None:
    if isinstance(weight, Dense | Csr | Bsr):
        return replace(weight, values=weight.values.astype(np.float16).astype(np.float32))
    return weight


def structure(graph: Graph) -> list[dict[str, Any]]:
    """Format, shape and non-zeros of every layer."""
    lines = []
    for node in layers(graph):
        assert node.weight is not None
        rows, cols = node.weight.shape
        lines.append(
            {"name": node.name, "format": node.weight.format, "rows": rows, "cols": cols, "nnz": node.weight.nnz}
        )
    return lines


def _technique(point: Point, recipe: FineTune) -> Technique:
    match point.technique.split("+")[-1]:
        case "weight" | "block":
            return WeightPruning(recipe, point.level, point.method)  # type: ignore[arg-type]
        case "channel":
            return ChannelPruning(recipe, point.level, point.method)  # type: ignore[arg-type]
    return TernaryTraining(recipe)


def _base_recipe(point: Point, recipe: FineTune) -> FineTune:
    """The lower point's own recipe, as long as this one's if that was changed."""
    assert point.base is not None
    own = recipe_of(point.model, point.base.technique)
    changed = recipe.epochs != recipe_of(point.model, point.technique).epochs
    return replace(own, epochs=recipe.epochs) if changed else own


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """All of it or nothing."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    part.replace(path)
