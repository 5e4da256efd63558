"""Training: how the shipped checkpoints were made, with PyTorch. An optional extra; only the command line imports it.

Next: recipe.py
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from refstack import datasets
from refstack.errors import BackendUnavailable, DataError, UsageError
from refstack.models import MODELS
from refstack.train.recipe import RECIPES, Recipe

__all__ = ["RECIPES", "Recipe", "train"]

JUDGES = ("val-lossless.tar.xz", "test.tar.xz")


def train(
    model: str,
    data: Path,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int | None = None,
    device: Literal["cuda", "cpu"] = "cuda",
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
    images, judges = _load(Path(data))
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


def _load(data: Path) -> tuple[datasets.Dataset, list[datasets.Dataset]]:
    """The images to train on, and the sets to judge by."""
    if not (data / "train.tar.xz").exists():
        return datasets.load(data, "train"), [datasets.load(data, "test")]
    judges = [datasets.load(data / name) for name in JUDGES if (data / name).exists()]
    if not judges:
        raise DataError(f"{str(data)!r}: beside train.tar.xz wanted at least one of {', '.join(JUDGES)}")
    return datasets.load(data / "train.tar.xz", "train"), judges
