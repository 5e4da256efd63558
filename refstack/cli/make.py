"""Verbs that make networks: compress, train, export."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refstack.cli.options import Data, Format, Model, View, data_set, say, show

if TYPE_CHECKING:
    from refstack.graph import Graph


class Device(str, Enum):
    """Where training runs."""

    cuda = "cuda"
    cpu = "cpu"


On = Annotated[Device, typer.Option("--device", help="A CPU takes days; the first line is an estimate.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Instead of the recipe's.")]
Seed = Annotated[int, typer.Option("--seed", help="Of order, augmentation and drawn weights.")]


def compress(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write (.safetensors).")],
    technique: Annotated[
        str,
        typer.Option("--technique", "-t", help="weight, block, channel, ternary; int8, half, dense."),
    ],
    level: Annotated[
        float | None, typer.Option("--level", help="Share of weights or parameters that goes; ternary: threshold.")
    ] = None,
    one_shot: Annotated[bool, typer.Option("--one-shot", help="At once, without training: quick and lossy.")] = False,
    method: Annotated[str, typer.Option("--method", help="Criterion, for example l1, if not the usual.")] = "",
    data: Data = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    device: On = Device.cuda,
    format: Format = View.table,
) -> None:
    """Compress a network while it trains on, or in one shot, and write it as a checkpoint.

    Training leaves its record beside the output, in a folder of the output's name; the same command goes on from there.
    """
    from refstack import checkpoint
    from refstack.compression import compress as at_once
    from refstack.errors import UsageError
    from refstack.models import zoo

    graph = zoo.load(model)
    dtype: Literal["float32", "float16"] = "float32"
    if one_shot or technique in ("int8", "half", "dense"):
        if method or data or epochs:
            raise UsageError("compress: --method, --data and --epochs are for training, which --one-shot leaves out")
        small = at_once(graph, technique, level)
    else:
        small = _trained(model, graph, technique, level, method, data, epochs, seed, device, output)
        dtype = "float16"
    checkpoint.save(small, output, dtype)
    size, whole = checkpoint.stored_bytes(small, dtype), checkpoint.stored_bytes(graph)
    show(
        [
            {
                "file": str(output),
                "technique": technique,
                "stored_bytes": size,
                "of": whole,
                "ratio": whole / size,
                "nnz": small.nnz,
                "macs": small.macs,
                "top1": {name: each["top1"] for name, each in small.meta.get("accuracy", {}).items()} or None,
                "sha256": small.sha256(),
            }
        ],
        format,
    )


def _trained(
    model: str, graph: Graph, technique: str, level: float | None, method: str, data: Path | None, epochs: int | None,
    seed: int, device: Device, output: Path,
) -> Graph:  # fmt: skip
    """The network that training left in the output's folder."""
    from refstack import checkpoint, train
    from refstack.errors import BackendUnavailable, UsageError
    from refstack.models import MODELS

    if technique not in train.METHODS:
        raise UsageError(f"no training is known for {technique!r}, wanted one of {', '.join(train.METHODS)}")
    if level is None:
        raise UsageError(f"compress: {technique} needs --level, for example --level 0.9")
    known = str(graph.meta.get("model", graph.name))
    if known not in MODELS:
        raise UsageError(
            f"{model}: is a network called {known!r}; training knows {', '.join(MODELS)} (--one-shot works on any)"
        )
    folder = output.with_name(f"{output.name}.training")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            record = train.compress(
                known, technique, level, data_set(data), folder, method=method, seed=seed, epochs=epochs,
                start=None if model in MODELS else Path(model), device=device.value, report=say,
            )  # fmt: skip
    except BackendUnavailable as error:
        raise BackendUnavailable(f"{error}; or compress in one shot, without training: --one-shot") from None
    say(f"record and predictions: {folder}")
    return checkpoint.load(_file_of(record, folder))


def _file_of(record: Mapping[str, Any], folder: Path) -> Path:
    """The network beside the record that names the same point; the folder may hold others."""
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text("utf-8"))
        if all(found.get(key) == record[key] for key in ("model", "technique", "method", "level", "seed")):
            return path.with_suffix(".safetensors")
    raise FileNotFoundError(f"{folder}: training has left no record of what it made")


def train(
    model: Annotated[str, typer.Argument(help="vgg16, resnet18 or mobilenet.")],
    data: Annotated[Path, typer.Option("--data", help="Folder with train.tar.xz, or the official data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the checkpoint and its manifest.")],
    epochs: Epochs = None,
    seed: Seed = 0,
    device: On = Device.cuda,
    format: Format = View.table,
) -> None:
    """Train a network from drawn weights; its checkpoint, what PyTorch computes with it, and its manifest entry."""
    from refstack import train as training

    with contextlib.redirect_stdout(sys.stderr):
        entry = training.train(model, data, out, epochs=epochs, seed=seed, device=device.value, report=say)
    top1 = {name: each["top1"] for name, each in entry["accuracy"].items()}
    show(
        [{"file": str(out / entry["file"]), "sha256": entry["sha256"], "train_s": entry["train_s"], "top1": top1}],
        format,
    )


def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.onnx).")],
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images of every call; default: any.")] = None,
    format: Format = View.table,
) -> None:
    """Write a network as an ONNX model, after another runtime has run it and each layer was inside its bound.

    Sparse, ternary and half weights become dense float32. Needs onnx: pip install "refstack-engine[onnx]".
    """
    from refstack.exporter import export as write
    from refstack.models import zoo

    done = write(zoo.load(model), output, batch=batch)
    show(
        [
            {
                "file": str(done.path),
                "size_bytes": done.size_bytes,
                "opset": done.opset,
                "batch": done.batch or "any",
                "max_error_vs_bound": done.worst.worst,
                "layer": done.worst.name,
                "n_checked": len(done.layers),
                "compared_by": done.compared_by,
            }
        ],
        format,
    )
