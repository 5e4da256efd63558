"""Where weights come from: the shipped networks by name, any file by path, or drawn from a seed.

data/manifest.json      {"schema_version": 1,
                         "checkpoints": {name: {"file", "sha256", "golden", "model", "technique",
                                         "accuracy": {data set: {"top1", "correct", "n"}}, "recipe", "seed", ...}},
                         "points": [{"model", "technique", "method", "level", "seed", "layers", ...}]}
A checkpoint is a network as trained; a point is one that was compressed and trained again (points.py).
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refstack import checkpoint
from refstack.container import keys, parse
from refstack.errors import ChecksumError, DataError, RefstackError, UsageError
from refstack.formats import Array, Dense
from refstack.graph import Graph, Node
from refstack.models import MODELS
from refstack.models.points import Point, choose, hint
from refstack.models.points import parse as parse_points
from refstack.ops import BatchNorm

SCHEMA_VERSION = 1
FACTS = ("file", "sha256", "golden", "golden_sha256", "model", "technique", "accuracy")


def load(name_or_path: str | os.PathLike[str]) -> Graph:
    """A trained network: a model's name gives the shipped checkpoint, a point's name that point, a path that file.

    Returns     Graph whose meta carries model, technique, sha256 (of the file) and accuracy where they are known, and
                for a point its full name as `point`
    Raises      UsageError no such name or file; ChecksumError the shipped file is not the published one; DataError
                the point's weights are not shipped; FormatError, ShapeError the file is not a sound checkpoint
    """
    if is_point(name_or_path):
        return _load_point(point(str(name_or_path)))
    if name_or_path not in MODELS:
        path = _existing(name_or_path)
        graph = checkpoint.load(path)
        return replace(graph, meta={**graph.meta, "sha256": _sha256(path)})
    name = str(name_or_path)
    path, entry = checkpoint_path(name), manifest()[name]
    graph = checkpoint.load(path)
    facts = {key: entry[key] for key in ("model", "technique", "sha256", "accuracy")}
    return replace(graph, meta={**graph.meta, **facts})


def is_point(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is meant for a point's name: <model>/<what follows>, and no such file."""
    model, slash, rest = str(name_or_path).partition("/")
    return bool(slash and rest) and model in MODELS and not Path(name_or_path).exists()


def points() -> list[Point]:
    """Every trained point, in the manifest's order; none in a checkout that was never trained."""
    path = data_dir() / "manifest.json"
    return parse_points(_content(path).get("points", []), str(path)) if path.exists() else []


def point(name: str) -> Point:
    """The point of a full or short name (points.py), or UsageError with names like it."""
    known = points()
    found = choose(known, name)
    if found is None:
        raise hint(known, name)
    return found


def _load_point(point: Point) -> Graph:
    if point.file is None or point.sha256 is None:
        raise DataError(
            f"{point.name}: its weights are not shipped, only its structure and accuracy; "
            f"`refstack bench` can time it with drawn weights (-m {point.model} -t {point.name.partition('/')[2]})"
        )
    graph = checkpoint.load(_file(point.file, point.sha256))
    facts = {"model": point.model, "technique": point.technique, "point": point.name, "level": point.level}
    return replace(graph, meta={**facts, "sha256": point.sha256, "accuracy": point.accuracy})


def checkpoint_path(model: str) -> Path:
    """The shipped checkpoint of a model, its sha256 compared with the manifest's."""
    entry = _entry(model)
    return _file(entry["file"], entry["sha256"])


def golden(name: str) -> dict[str, Array]:
    """What PyTorch computed with a shipped network: inputs, logits, predictions and margins (train/publish.py).

    Args        name    a model's, or a point's: its logits are for its model's inputs; int8 has predictions only, by
                        refstack's own kernels
    """
    entry = vars(point(name)) if is_point(name) else _entry(name)
    if entry["golden"] is None:
        raise DataError(f"{name}: its weights are not shipped, so nothing is recorded of what they compute")
    return checkpoint.load_arrays(_file(entry["golden"], entry["golden_sha256"]))


def manifest() -> dict[str, dict[str, Any]]:
    """The shipped checkpoints' entries by model name."""
    path = data_dir() / "manifest.json"
    content = _content(path)
    checkpoints: dict[str, dict[str, Any]] = content["checkpoints"]
    for name, entry in checkpoints.items():
        missing = [key for key in FACTS if key not in entry]
        if missing:
            raise DataError(f"{path}: the entry of {name} lacks {', '.join(missing)}; install refstack again")
    return checkpoints


def _content(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse(path.read_text("utf-8"), "manifest")
        extra = {"points"} if isinstance(content, dict) and "points" in content else set()
        keys(content, {"schema_version", "checkpoints", *extra}, "manifest")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no list of checkpoints ({error}); install refstack again or train") from None
    except RefstackError as error:
        raise DataError(f"{path}: {error}") from None
    if content["schema_version"] != SCHEMA_VERSION:
        raise DataError(f"{path}: schema version {content['schema_version']}, wanted {SCHEMA_VERSION}; update refstack")
    return content


def one_shot() -> dict[str, dict[str, Any]]:
    """What was measured of the shipped checkpoints compressed in one shot, by the compressed network's sha256.

    Each entry has model, technique, level and accuracy; tools/record_one_shot.py writes them. Empty without the file.
    """
    path = data_dir() / "one_shot.json"
    if not path.exists():
        return {}
    try:
        entries: dict[str, dict[str, Any]] = parse(path.read_text("utf-8"), "one_shot")
    except (OSError, UnicodeDecodeError, RefstackError) as error:
        raise DataError(f"{path}: {error}; install refstack again") from None
    return entries


def data_dir() -> Path:
    """Folder of the shipped checkpoints: inside an installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / "data" if (package / "data").is_dir() else package.parent / "data"


def draw(graph: Graph, seed: int = 0) -> Graph:
    """The same network with weights drawn as for training, and batch-norm statistics as training leaves them.

        w ~ N(0, 2 / cols)      bias, mean ~ N(0, 0.1**2)      gamma, var ~ U(0.5, 1.5)

    Args        seed    of numpy.random.default_rng; nodes draw in order
    Source      He, Zhang, Ren, Sun: Delving Deep into Rectifiers, ICCV 2015
    """
    rng = np.random.default_rng(seed)
    drawn = graph.with_nodes([_draw(node, rng) for node in graph], technique="drawn", seed=seed)
    drawn.check()
    return drawn


def _draw(node: Node, rng: np.random.Generator) -> Node:
    if node.weight is None:
        return node
    rows, cols = node.weight.shape

    def normal(deviation: float, array: Array | None) -> Array | None:
        return None if array is None else (deviation * rng.standard_normal(rows)).astype(np.float32)

    if isinstance(node.op, BatchNorm):
        weight, var = rng.uniform(0.5, 1.5, (rows, 1)), rng.uniform(0.5, 1.5, rows).astype(np.float32)
    else:
        weight, var = np.sqrt(2 / cols) * rng.standard_normal((rows, cols)), None
    bias, mean = normal(0.1, node.bias), normal(0.1, node.mean)
    return replace(node, weight=Dense.encode(weight), bias=bias, mean=mean, var=var)


def _entry(model: str) -> dict[str, Any]:
    _known(model)
    entries = manifest()
    if model not in entries:
        shipped = ", ".join(entries) or "none"
        raise DataError(f"{data_dir()}: no trained checkpoint of {model} (there: {shipped}); train it or name a file")
    return entries[model]


def _known(name: str) -> None:
    if name not in MODELS:
        near = difflib.get_close_matches(name.lower(), MODELS, 1, 0.5)
        words = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown model {name!r}: {words}wanted one of {', '.join(MODELS)}, or a checkpoint's path")


def _existing(name_or_path: str | os.PathLike[str]) -> Path:
    """A path as it is; a word that is neither a file nor looks like one is taken for a mistyped name."""
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and not path.exists() and len(path.parts) == 1 and not path.suffix:
        _known(name_or_path)
    return path


def _file(name: str, sha256: str) -> Path:
    """A file beside the manifest, its content compared with the hash that is written there."""
    path = data_dir() / Path(name).name
    if not path.is_file():
        raise DataError(f"{path}: the manifest names this file, but it is not there; install refstack again")
    got = _sha256(path)
    if got != sha256:
        raise ChecksumError(f"{path}: sha256 is {got}, the manifest says {sha256}; install refstack again")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
