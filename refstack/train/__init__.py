"""Training: how the shipped checkpoints were made, with PyTorch. An optional extra; only the command line imports it.

    train       one of the study's networks from drawn weights
    compress    a trained network under a technique that takes weights, channels or bits away while it trains on
    study       all points of the study

Next: recipe.py
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from refstack import datasets
from refstack.datasets import Dataset
from refstack.errors import BackendUnavailable, DataError, UsageError
from refstack.models import MODELS, zoo
from refstack.train.recipe import METHODS, RECIPES, FineTune, Recipe, recipe_of

if TYPE_CHECKING:
    from refstack.train.points import Material

__all__ = ["METHODS", "RECIPES", "FineTune", "Recipe", "compress", "study", "train"]

JUDGES = ("val-lossless.tar.xz", "test.tar.xz")


def train(
    model: str,
    data: Path,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int | None = None,
    device: Literal["cuda", "cpu"] = "cuda",
    holdout: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train one of the study's networks and write its checkpoint, golden file and manifest entry.

    Args
        model   vgg16, resnet18 or mobilenet
        data    folder with train.tar.xz beside the sets to judge by (val-lossless.tar.xz, test.tar.xz), or the
                official data set, packed or unpacked
        out     folder; gets <model>.safetensors (float16 weights), <model>.golden.safetensors and manifest.json
        epochs, seed    instead of the recipe's
        device  cuda, or cpu, which takes days
        holdout this many training images of each class are not trained on but judged by, and nothing else is
        report  gets a line an epoch
    Returns     the manifest's entry for this model
    Raises      BackendUnavailable  no PyTorch, or no CUDA device
                UsageError, DataError   no such model, no such data
    Numerics    the accuracies are those of the file as written: weights rounded to float16, float32 arithmetic
    """
    if model not in MODELS:
        raise UsageError(f"train: no model {model!r}, wanted one of {', '.join(MODELS)}")
    machine = _machine(device)
    from refstack.train.fit import fit
    from refstack.train.publish import publish

    recipe = RECIPES[model]
    recipe = dataclasses.replace(
        recipe, epochs=recipe.epochs if epochs is None else epochs, seed=recipe.seed if seed is None else seed
    )
    images, judges = _load(Path(data), holdout)
    report(f"{model}: {len(images)} images of {images.name}, judged by {', '.join(judge.name for judge in judges)}")
    start = time.monotonic()
    graph = fit(MODELS[model](), images.images, images.labels, recipe, device, report)
    facts = {
        "model": model,
        "technique": "dense",
        "recipe": dataclasses.asdict(recipe),
        "data": {"name": images.name, "sha256": images.sha256},
        **machine,
        "train_s": round(time.monotonic() - start),
    }
    entry = publish(graph.with_nodes(graph.nodes, **facts), judges, Path(out), device)
    for name, accuracy in entry["accuracy"].items():
        report(f"{model}: {accuracy['top1']:.2f} % of {name}")
    return entry


def compress(
    model: str,
    technique: str,
    level: float | None,
    data: Path,
    out: Path,
    *,
    method: str = "",
    seed: int = 0,
    epochs: int | None = None,
    settings: Mapping[str, str] | None = None,
    start: Path | None = None,
    device: Literal["cuda", "cpu"] = "cuda",
    holdout: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compress a trained network while it trains on; write the point's files unless they are there, return its record.

    Args
        model, technique, level, method, seed   the point (points.py); no method is the technique's first, and int8
                                                alone has no level
        data    as for train
        out     folder; gets <point>.json, .safetensors and .golden.safetensors
        epochs, settings    instead of the recipe's; settings by the recipe's field names
        start   checkpoint to start from, None for the shipped one: as it was trained, batch-norm not folded
        device, holdout, report     as for train
    Returns     the record
    Raises      BackendUnavailable  no PyTorch, or no CUDA device
                UsageError, DataError   no such model, technique, level, setting or data
    """
    if model not in MODELS:
        raise UsageError(f"compress: no model {model!r}, wanted one of {', '.join(MODELS)}")
    facts: dict[str, Any] = {**_machine(device)}
    from refstack.train.points import Material, Point, produce

    if level is None and technique != "int8":
        raise UsageError(f"compress: {technique} wants a level; 0.9 takes 90 % away, ternary's threshold is 0.05")
    point = Point(model, technique, level or 0.0, seed, method)
    changes = {**(settings or {}), **({} if epochs is None else {"epochs": str(epochs)})}
    recipe = recipe_of(model, technique).changed(changes) if changes else None
    images, judges = _load(Path(data), holdout)
    report(f"{point.name}: {len(images)} images of {images.name}, judged by {', '.join(j.name for j in judges)}")
    facts["data"] = {"name": images.name, "sha256": images.sha256}
    material = Material(zoo.load(start or model), images, judges, device, facts)
    return produce(point, material, Path(out), recipe, report)


def study(
    data: Path,
    out: Path,
    *,
    workers: int = 1,
    worker: int | None = None,
    device: Literal["cuda", "cpu"] = "cuda",
    report: Callable[[str], None] = print,
) -> int:
    """Make every point of the study that has no record in `out` yet; return how many are missing at the end.

    Args
        workers     processes, which take turns over the GPUs
        worker      the number of this process, if it is one of them
    """
    facts: dict[str, Any] = {**_machine(device)}
    from refstack.train.points import Material
    from refstack.train.sweep import points, release, work

    todo, out = points(), Path(out)
    if worker is None:
        out.mkdir(parents=True, exist_ok=True)
        release(out)
        command = [sys.executable, "-m", "refstack.train", "study", "--data", str(data), "--out", str(out)]
        command += ["--device", device, "--workers", str(workers)]
        started = [subprocess.Popen([*command, "--worker", str(i)], env=_share(i)) for i in range(workers)]
        for process in started:
            process.wait()
    else:
        _keep_to_own(worker, workers)
        images, judges = _load(Path(data), 0)
        facts["data"] = {"name": images.name, "sha256": images.sha256}

        @functools.cache
        def material(model: str) -> Material:
            return Material(zoo.load(model), images, judges, device, facts)

        work(todo, material, out, report)
    return sum(not (out / f"{point.name}.json").exists() for point in todo)


def _keep_to_own(worker: int, workers: int) -> None:
    """Use one worker's share of the processors: OpenMP's threads spin, and teams that share a processor starve."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[worker::workers] or {processors[worker % len(processors)]})


def _share(worker: int) -> dict[str, str]:
    """The environment of a worker that sees one GPU."""
    import torch

    gpus = torch.cuda.device_count()
    return {**os.environ, **({"CUDA_VISIBLE_DEVICES": str(worker % gpus)} if gpus else {})}


def _machine(device: str) -> dict[str, str]:
    """PyTorch's version and the device's name, or BackendUnavailable."""
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(
            f'training needs PyTorch, which cannot be imported ({error}); pip install "refstack-engine[train]"'
        ) from None
    if device not in ("cuda", "cpu"):
        raise UsageError(f"train: device {device!r}, wanted cuda or cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("training: PyTorch finds no CUDA device; use --device cpu, which takes days")
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__}


def _load(data: Path, holdout: int) -> tuple[Dataset, list[Dataset]]:
    """The images to train on, and the sets to judge by."""
    packed = (data / "train.tar.xz").exists()
    images = datasets.load(data / "train.tar.xz" if packed else data, "train")
    if holdout:
        rest, held = _hold_out(images, holdout)
        return rest, [held]
    if not packed:
        return images, [datasets.load(data, "test")]
    judges = [datasets.load(data / name) for name in JUDGES if (data / name).exists()]
    if not judges:
        raise DataError(f"{str(data)!r}: beside train.tar.xz wanted at least one of {', '.join(JUDGES)}")
    return images, judges


def _hold_out(images: Dataset, number: int) -> tuple[Dataset, Dataset]:
    """(the rest, the last `number` images of each class)."""
    held = np.concatenate([np.flatnonzero(images.labels == label)[-number:] for label in np.unique(images.labels)])
    rest = np.setdiff1d(np.arange(len(images)), held)
    if number < 0 or not len(rest):
        raise UsageError(f"train: holdout is {number} images a class, wanted fewer than there are")

    def part(index: np.ndarray[Any, np.dtype[np.intp]], word: str) -> Dataset:
        digest = hashlib.sha256(f"{images.sha256} {index.tolist()}".encode()).hexdigest()
        names = tuple(images.names[i] for i in index)
        return Dataset(
            f"{images.name}-{word}{number}", images.images[index], images.labels[index], digest, images.source, names
        )

    return part(rest, "without"), part(held, "holdout")
