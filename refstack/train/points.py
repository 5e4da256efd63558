"""One point of the study: a network, a technique, a level and a seed become a trained graph, its record and a file.

    OUT/<point>.json                    the record: recipe, structure of every layer, accuracies
    OUT/<point>.safetensors             the graph as it is run: batch-norm folded, weights in their format
    OUT/<point>.golden.safetensors      predictions and margins of every image judged by (publish.py)
    OUT/<point>.trained.safetensors     channel pruning, batch-norm not folded: what ternary on top of it starts from

The record is written last, so what has a record is complete, and is not made again.
Next: sweep.py
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
from refstack.compression import compress
from refstack.compression.layers import layers, recode
from refstack.compression.masks import Block
from refstack.compression.structure import structure
from refstack.datasets import Dataset, preprocess
from refstack.errors import UsageError
from refstack.formats import Bsr, Csr, Dense, Ternary, Weight
from refstack.graph import Graph
from refstack.passes import prepare
from refstack.train.channels import ChannelPruning
from refstack.train.fit import tune
from refstack.train.pruning import WeightPruning, prunable
from refstack.train.publish import accuracies, engine_golden, golden
from refstack.train.recipe import METHODS, FineTune, recipe_of
from refstack.train.technique import Technique
from refstack.train.ternary import TernaryTraining, ternary_layers

TRAINED = ".trained"
CALIBRATION = 64  # images


@dataclass(frozen=True)
class Point:
    """What is asked for.

    level   share of the weights (weight, block) or of the parameters (channel) that goes; ternary: the threshold; int8
            alone: 0
    """

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
        level = "" if self.technique == "int8" else f"-{100 * self.level:g}"
        return f"{self.model}-{self.technique}-{self.method}{level}-seed{self.seed}"

    @property
    def last(self) -> str:
        """The technique that the point ends with."""
        return self.technique.split("+")[-1]

    @property
    def base(self) -> Point | None:
        """The point whose network this one starts from; None is the dense network."""
        first, _, then = self.technique.partition("+")
        return replace(self, technique=first) if then else None


@dataclass(frozen=True)
class Material:
    """What every point needs: the dense network, images to train on, sets to judge by, and where it all runs."""

    dense: Graph
    images: Dataset
    judges: Sequence[Dataset]
    device: Literal["cuda", "cpu"]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def produce(
    point: Point,
    material: Material,
    out: Path,
    recipe: FineTune | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Make a point, unless its record is there already, and the point below it if need be; return the record.

    Args
        recipe  instead of the point's own; the point below is then trained for as many epochs
        report  gets a line an epoch, and the accuracies
    """
    path = out / f"{point.name}.json"
    if path.exists():
        report(f"{point.name}: is there already ({path})")
        return json.loads(path.read_text("utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    network, start = material.dense, time.monotonic()
    if base := point.base:
        own = recipe_of(base.model, base.technique)
        produce(base, material, out, replace(own, epochs=recipe.epochs) if recipe else own, report)
        network = checkpoint.load(out / f"{base.name}{'' if point.last == 'int8' else TRAINED}.safetensors")
        start = time.monotonic()
    if point.last == "int8":
        graph, used = _quantised(point, network, material.images)
        arrays = engine_golden(graph, material.judges)
    else:
        trained, used = _trained(point, network, material, recipe, report)
        graph = halved(encode(trained, point.last, tuple(used["block"])))
        arrays = golden(graph, material.judges, material.device)
        if point.technique == "channel":
            checkpoint.save(trained, out / f"{point.name}{TRAINED}.safetensors")
    record: dict[str, Any] = {
        **dataclasses.asdict(point),
        "level": None if point.technique == "int8" else point.level,
        "recipe": used,
        "layers": [vars(layer) for layer in structure(graph)],
        "params": graph.params,
        "macs": graph.macs,
        "nnz": graph.nnz,
        "accuracy": accuracies(arrays, material.judges),
        **material.facts,
        "date": datetime.date.today().isoformat(),
        "train_s": round(time.monotonic() - start),
    }
    record = json.loads(json.dumps(record))  # as it will be read: tuples are lists
    checkpoint.save(replace(graph, meta=record), out / f"{point.name}.safetensors", "float16")
    checkpoint.save_arrays(arrays, out / f"{point.name}.golden.safetensors")
    _write(path, record)
    words = (f"{accuracy['top1']:.2f} % of {name}" for name, accuracy in record["accuracy"].items())
    report(f"{point.name}: {', '.join(words)}, {record['train_s']} s")
    return record


def _trained(
    point: Point, network: Graph, material: Material, recipe: FineTune | None, report: Callable[[str], None]
) -> tuple[Graph, dict[str, Any]]:
    """The network after training under the technique, and the recipe."""
    own = recipe_of(point.model, point.technique)
    recipe = replace(recipe or own, seed=point.seed)
    if point.technique == "ternary":
        recipe = replace(recipe, threshold=point.level)
    match point.last:
        case "weight" | "block":
            technique: Technique = WeightPruning(recipe, point.level, point.method)  # type: ignore[arg-type]
        case "channel":
            technique = ChannelPruning(recipe, point.level, point.method)  # type: ignore[arg-type]
        case _:
            technique = TernaryTraining(recipe)
    images, teacher = material.images, material.dense if recipe.distill else None

    def told(line: str) -> None:
        report(f"{point.name} {line}")

    trained = tune(network, images.images, images.labels, recipe, technique, teacher, material.device, told)
    return trained, dataclasses.asdict(recipe)


def _quantised(point: Point, network: Graph, images: Dataset) -> tuple[Graph, dict[str, Any]]:
    """The network in eight bits, calibrated on training images that the seed draws."""
    chosen = np.random.default_rng(point.seed).choice(len(images), min(CALIBRATION, len(images)), replace=False)
    ranges = point.method if point.technique == "int8" else "mse"
    graph = compress(network, "int8", calibration=preprocess(images.images[chosen]), ranges=ranges)
    return graph, {"calibration_images": len(chosen), "ranges": ranges, "seed": point.seed}


def encode(trained: Graph, technique: str, block: Block) -> Graph:
    """The graph as it is run: folded, and in the format that the technique is for."""
    match technique:
        case "ternary":
            return prepare(recode(trained, Ternary, ternary_layers(trained)))
        case "weight":
            return recode(prepare(trained), Csr, prunable(trained))
        case "block":
            return recode(prepare(trained), _blocks(prepare(trained), block, prunable(trained)))
    return prepare(trained)


def _blocks(graph: Graph, block: Block, names: Sequence[str]) -> dict[str, Bsr]:
    """The named layers' weights in the blocks in which they were pruned."""
    weights = {node.name: node.weight for node in graph if node.name in names and node.weight is not None}
    return {name: Bsr.encode(weight.decode(), block) for name, weight in weights.items()}


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


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """All of it or nothing."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    part.replace(path)
