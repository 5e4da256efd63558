"""A trained graph becomes a checkpoint, its golden file, and an entry of the manifest that models/zoo.py reads.

The golden file holds what PyTorch computes with the checkpoint's weights, so that nobody needs PyTorch to compare:
    inputs                      uint8 (16, 3, 32, 32)       made-up smooth images
    logits, logits64            float32, float64 (16, 10)   for them, in either precision, on the CPU
    predictions.<data set>      uint8 (n,)                  largest logit of every image, in the data set's order
    margin.<data set>           float16 (n,)                largest logit minus the second largest
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refstack import checkpoint
from refstack.datasets import Dataset, preprocess
from refstack.formats import Array
from refstack.graph import Graph
from refstack.models import zoo
from refstack.models.points import manifest_text
from refstack.planner import plan
from refstack.train.torch_graph import from_graph, logits

IMAGES = 16
BATCH = 50  # of refstack's kernels


def publish(graph: Graph, judges: Sequence[Dataset], out: Path, device: str = "cpu") -> dict[str, Any]:
    """Write <model>.safetensors, <model>.golden.safetensors and the entry in manifest.json; return the entry.

    Args        graph   its meta carries the facts of its making, `model` among them
                judges  data sets whose predictions and accuracy are recorded, computed on `device`
    """
    model = graph.meta["model"]
    file, golden_file = f"{model}.safetensors", f"{model}.golden.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(graph, out / file, dtype="float16")
    arrays = golden(checkpoint.load(out / file), judges, device)
    checkpoint.save_arrays(arrays, out / golden_file)
    hashes = {key: _sha256(out / name) for key, name in (("sha256", file), ("golden_sha256", golden_file))}
    entry = {
        **graph.meta,
        "file": file,
        "golden": golden_file,
        **hashes,
        "date": datetime.date.today().isoformat(),
        "accuracy": accuracies(arrays, judges),
    }
    manifest = out / "manifest.json"
    empty: dict[str, Any] = {"schema_version": zoo.SCHEMA_VERSION, "checkpoints": {}}
    content = json.loads(manifest.read_text("utf-8")) if manifest.exists() else empty
    content["checkpoints"][model] = entry
    manifest.write_text(manifest_text(content), "utf-8")
    return entry


def golden(graph: Graph, judges: Sequence[Dataset], device: str = "cpu", seed: int = 0) -> dict[str, Array]:
    """The arrays of the golden file; predictions are those of float32 arithmetic on `device`."""
    inputs = smooth_images(np.random.default_rng(seed), IMAGES)
    module, x = from_graph(graph), preprocess(inputs)
    arrays = {"inputs": inputs, "logits": logits(module, x), "logits64": logits(module, x.astype(np.float64))}
    module.to(device)
    for judge in judges:
        y = np.concatenate([logits(module, images) for images, _ in judge.batches(500)])
        arrays |= _verdicts(judge.name, y)
    return arrays


def engine_golden(graph: Graph, judges: Sequence[Dataset]) -> dict[str, Array]:
    """Predictions and margins as refstack's own kernels give them: for int8, which PyTorch has no layers for here.

    Integer sums are exact, so every backend, the NumPy reference too, gives the same bits up to the last float layers.
    """
    made = plan(graph, BATCH, ("openmp", "numpy"), len(os.sched_getaffinity(0)))
    arrays: dict[str, Array] = {}
    for judge in judges:
        y = []
        for images, _ in judge.batches(BATCH):
            x = np.zeros((BATCH, *images.shape[1:]), np.float32)
            x[: len(images)] = images
            y.append(made.run(x)[: len(images)].copy())
        arrays |= _verdicts(judge.name, np.concatenate(y))
    return arrays


def _verdicts(name: str, y: Array) -> dict[str, Array]:
    second, first = np.sort(y, axis=1)[:, -2:].T
    margin = np.minimum(first - second, np.finfo(np.float16).max).astype(np.float16)
    return {f"predictions.{name}": y.argmax(axis=1).astype(np.uint8), f"margin.{name}": margin}


def accuracies(arrays: Mapping[str, Array], judges: Sequence[Dataset]) -> dict[str, dict[str, Any]]:
    """{data set: top-1 in percent, number right, number of images}."""
    found = {}
    for judge in judges:
        correct = int((arrays[f"predictions.{judge.name}"] == judge.labels).sum())
        found[judge.name] = {"top1": 100 * correct / len(judge), "correct": correct, "n": len(judge)}
    return found


def smooth_images(rng: np.random.Generator, n: int) -> NDArray[np.uint8]:
    """uint8 (n, 3, 32, 32): a 5 x 5 grid of random colours, blended linearly between the grid's points."""
    grid = rng.integers(0, 256, (n, 3, 5, 5))
    for axis in (2, 3):
        low, high = (np.repeat(np.take(grid, range(i, i + 4), axis), 8, axis) for i in (0, 1))
        step = np.tile(np.arange(8), 4).reshape((-1, 1) if axis == 2 else (1, -1))
        grid = (low * (8 - step) + high * step) // 8
    return grid.astype(np.uint8)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
