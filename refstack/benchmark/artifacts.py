"""What is timed, made once for each model and technique: the compressed network on disk, its input, the right answer.

All backends and thread counts read the same bytes, so a row's time, size and accuracy are of one artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refstack import checkpoint
from refstack.compression import compress
from refstack.datasets import preprocess
from refstack.formats import Array
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.ops import Conv2d, Linear
from refstack.reference import run


@dataclass(frozen=True, eq=False)
class Artifact:
    """Files for the children, and the facts that a row takes from the network itself.

    graph_file      the compressed network (safetensors)        input_file, oracle_file     .npy
    facts           format, sizes, counts, sha256, weights, level
    """

    model: str
    technique: str
    graph_file: Path
    input_file: Path
    oracle_file: Path
    facts: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Of what is computed: ops, wiring and every stored byte."""
        return str(self.facts["artifact_sha256"])


def source(name_or_path: str, seed: int) -> Graph:
    """The trained network; for a known model without a shipped checkpoint the same layers with drawn weights."""
    if name_or_path in MODELS and name_or_path not in shipped():
        return zoo.draw(MODELS[name_or_path](), seed)
    return zoo.load(name_or_path)


def shipped() -> dict[str, Any]:
    """The manifest's checkpoints; none in a checkout that was never trained."""
    return zoo.manifest() if (zoo.data_dir() / "manifest.json").exists() else {}


def make(model: str, graph: Graph, technique: str, images: Array, folder: Path) -> Artifact:
    """Compress, save, and compute the float64 answer for `images`.

    Args        images  uint8 (batch, 3, h, w)
    """
    compressed = compress(graph, technique)
    stem = folder / f"{Path(model).stem}-{technique}"
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".safetensors", ".input.npy", ".oracle.npy")]
    checkpoint.save(compressed, files[0])
    x = preprocess(images)
    np.save(files[1], x, allow_pickle=False)
    np.save(files[2], run(compressed, x.astype(np.float64)), allow_pickle=False)
    return Artifact(model, technique, files[0], files[1], files[2], _facts(graph, compressed))


def _facts(trained: Graph, graph: Graph) -> dict[str, Any]:
    formats = [node.weight.format for node in graph if node.weight is not None and isinstance(node.op, Conv2d | Linear)]
    record = dict(graph.meta.get("compression") or {})
    return {
        "format": "+".join(sorted(set(formats), key=lambda f: (-formats.count(f), f))),
        "level": record.get("level"),
        "weights": "drawn" if trained.meta.get("technique") == "drawn" else "trained",
        "checkpoint_sha256": trained.meta.get("sha256"),
        "artifact_sha256": graph.sha256(),
        "stored_bytes": graph.stored_bytes,
        "params": graph.params,
        "macs": graph.macs,
        "nnz": graph.nnz,
    }


def images(model: str, graph: Graph, batch: int, seed: int) -> Array:
    """uint8 (batch, c, h, w) to time on: the checkpoint's golden images if it has them, else drawn ones."""
    if model in shipped():
        golden = zoo.golden(model)["inputs"]
        return np.resize(golden, (batch, *golden.shape[1:]))
    return np.random.default_rng(seed).integers(0, 256, (batch, *graph.input_shape), np.uint8)
