"""What is timed, one for each model and technique: the compressed network on disk, its input, the right answer.

All backends and thread counts read the same bytes, so a row's time, size and accuracy are of one artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refstack import checkpoint
from refstack.compression.structure import build
from refstack.compression.trained import under
from refstack.datasets import preprocess
from refstack.formats import Array
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.models.points import Point
from refstack.ops import Conv2d, Linear
from refstack.planner import cases
from refstack.reference import run


@dataclass(frozen=True, eq=False)
class Artifact:
    """Files for the children, and the facts that a row takes from the network itself.

    graph_file      the compressed network (safetensors)        input_file, oracle_file     .npy
    facts           format, sizes, counts, sha256, weights, level
    cases           words of the problems that its layers are, for so many images
    point           the trained point that it is, or has the structure of; None if it was compressed in one shot
    """

    model: str
    technique: str
    graph_file: Path
    input_file: Path
    oracle_file: Path
    facts: dict[str, Any]
    point: Point | None = None
    cases: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of what is computed: ops, wiring and every stored byte."""
        return str(self.facts["artifact_sha256"])

    @property
    def files(self) -> dict[str, str]:
        """What a child reads."""
        return {"graph": str(self.graph_file), "input": str(self.input_file), "oracle": str(self.oracle_file)}


def source(name_or_path: str, seed: int) -> Graph:
    """The trained network; for a known name without shipped weights the same layers with drawn ones."""
    if zoo.is_point(name_or_path):
        found = zoo.point(name_or_path)
        return build(found, seed) if found.file is None else zoo.load(found.name)
    if name_or_path in MODELS and name_or_path not in shipped():
        return zoo.draw(MODELS[name_or_path](), seed)
    return zoo.load(name_or_path)


def shipped() -> dict[str, Any]:
    """The manifest's checkpoints; none in a checkout that was never trained."""
    return zoo.manifest() if (zoo.data_dir() / "manifest.json").exists() else {}


def make(
    model: str, graph: Graph, technique: str, images: Array, folder: Path, one_shot: bool = False, seed: int = 0
) -> Artifact:
    """Compress or load, save, and compute the float64 answer for `images`.

    Args        images  uint8 (batch, 3, h, w)
    """
    small, point = under(model, graph, technique, one_shot, seed)
    stem = folder / f"{Path(model).stem}-{technique}"
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".safetensors", ".input.npy", ".oracle.npy")]
    stored_as: checkpoint.Dtype = "float32" if point is None else "float16"
    checkpoint.save(small, files[0], stored_as)
    if point is not None:
        small = checkpoint.load(files[0])  # drawn weights are rounded, trained ones are already
    x = preprocess(images)
    np.save(files[1], x, allow_pickle=False)
    np.save(files[2], run(small, x.astype(np.float64)), allow_pickle=False)
    facts = _facts(graph, small, point, technique)
    facts |= {"stored_as": stored_as, "stored_bytes": checkpoint.stored_bytes(small, stored_as)}
    words = tuple(case.word for case in cases(small, len(x)).values())
    return Artifact(model, technique, files[0], files[1], files[2], facts, point, words)


def _facts(source: Graph, graph: Graph, point: Point | None, technique: str) -> dict[str, Any]:
    formats = [node.weight.format for node in graph if node.weight is not None and isinstance(node.op, Conv2d | Linear)]
    record = dict(graph.meta.get("compression") or {})
    drawn = "drawn" in (graph.meta.get("technique"), source.meta.get("technique"))
    trained = point is not None or technique == "dense"
    return {
        "format": "+".join(sorted(set(formats), key=lambda f: (-formats.count(f), f))),
        "level": record.get("level") if point is None else point.level,
        "weights": "drawn" if drawn else "trained" if trained else "one-shot",
        "point": None if point is None else point.name,
        "checkpoint_sha256": source.meta.get("sha256") if point is None else point.sha256,
        "artifact_sha256": graph.sha256(),
        "params": graph.params,
        "macs": graph.macs,
        "nnz": graph.nnz,
    }


def images(model: str, graph: Graph, batch: int, seed: int) -> Array:
    """uint8 (batch, c, h, w) to time on: the checkpoint's golden images if it has them, else drawn ones."""
    known = model.partition("/")[0] if zoo.is_point(model) else model
    if known in shipped():
        golden = zoo.golden(known)["inputs"]
        return np.resize(golden, (batch, *golden.shape[1:]))
    return np.random.default_rng(seed).integers(0, 256, (batch, *graph.input_shape), np.uint8)
