"""Take trained points into data/: their records into the manifest, and the weights of some beside it.

    python tools/record_points.py RESULTS CIFAR10

RESULTS     what training left (refstack.train): a record for each point, <stem>.json, and for those to be shipped the
            network <stem>.safetensors and what PyTorch computed with it, <stem>.golden.safetensors
CIFAR10     folder with val-lossless.tar.xz and test.tar.xz: every shipped network is run on images of both

Shipped are the points of SHIPPED, seed 0, first method, if their files are there. Each is written anew in its smallest
form, must give the recorded predictions, and all of them together must stay within MOST_BYTES.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import refstack as rs
from refstack import checkpoint, datasets
from refstack.compression.layers import recode
from refstack.compression.structure import build, structure
from refstack.datasets import Dataset
from refstack.formats import Array, Bsr, Csr
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.models.points import FILES, Layer, Point, manifest_text
from refstack.train import recipe

MOST_BYTES = 26_000_000
IMAGES = 1000  # of each set, on which a shipped network must give the recorded classes
SHIPPED: dict[str, dict[str, float | None]] = {
    "weight": dict.fromkeys(MODELS, 0.9),
    "channel": {"vgg16": 0.87, "resnet18": 0.93, "mobilenet": 0.9},
    "ternary": dict.fromkeys(MODELS, 0.05),
    "channel+ternary": {"vgg16": 0.87, "resnet18": 0.8, "mobilenet": 0.5},
    "channel+int8": {"mobilenet": 0.9},
}
"""Technique -> model -> level, the most wanted first."""

ORDER = (
    "weight", "block", "channel", "ternary", "int8", "half", "channel+ternary", "channel+int8", "weight+int8",
)  # fmt: skip
METHODS = ("magnitude", "uniform", "fisher", "ttq", "mse", "minmax", "l1", "random")
OWN = {field.name for field in dataclasses.fields(Point)} - {"facts"}


def point_of(record: Mapping[str, Any], graph: Graph | None) -> Point:
    """A record as a point; its bytes are counted on the network, or on one like it if that did not come along."""
    record = {**record, "level": record["level"] if record["technique"] != "int8" else None}
    lines = [Layer(*(line[key] for key in ("name", "format", "rows", "cols", "nnz"))) for line in record["layers"]]
    if record["technique"] == "block":
        lines = as_blocks(lines, graph)
        record["nnz"] = sum(line.nnz for line in lines)
    facts = {key: value for key, value in record.items() if key not in OWN}
    values = {key: record[key] for key in OWN & set(record) - set(FILES)}
    point = Point(**{**values, "layers": tuple(lines), "stored_bytes": 0}, facts=facts)
    if graph is not None and structure(graph) != point.layers:
        raise SystemExit(f"{point.name}: the network is not what its record says")
    like = build(point) if graph is None else graph
    if (like.params, like.macs) != (point.params, point.macs):
        raise SystemExit(f"{point.name}: {like.params} parameters and {like.macs} multiply-adds, not as recorded")
    return dataclasses.replace(point, stored_bytes=checkpoint.stored_bytes(like, "float16"))


def as_blocks(lines: list[Layer], graph: Graph | None) -> list[Layer]:
    """csr lines as bsr ones. A weight that rounds to 0 in float16 is stored in either, but counts in csr alone."""
    wanted = {line.name: line for line in (structure(graph) if graph is not None else ())}
    found = []
    for line in lines:
        blocks = dataclasses.replace(line, format="bsr" if line.format == "csr" else line.format)
        own = wanted.get(line.name, blocks)
        found.append(own if abs(own.nnz - line.nnz) <= line.nnz / 1000 else blocks)
    return found


def network(path: Path, technique: str) -> Graph | None:
    """The trained network, block-sparse layers as blocks; None if only its record is there."""
    if not path.exists():
        return None
    graph = checkpoint.load(path)
    if technique != "block":
        return graph
    return recode(graph, Bsr, [node.name for node in graph if isinstance(node.weight, Csr)])


def wanted(point: Point) -> bool:
    """Whether the point's weights are to be shipped."""
    levels = SHIPPED.get(point.technique, {})
    meant = point.model in levels and point.method == recipe.METHODS[point.technique][0]
    return meant and point.seed == 0 and levels[point.model] == point.level


def ship(point: Point, graph: Graph, golden: Mapping[str, Array], data: Path) -> Point:
    """Write the network and what is known of it; the point with its files. Inputs are those of the dense network."""
    if "logits" in golden and not np.array_equal(golden["inputs"], zoo.golden(point.model)["inputs"]):
        raise SystemExit(f"{point.name}: its logits are of other inputs than those of data/{point.model}.golden")
    golden = {name: array for name, array in golden.items() if name != "inputs"}
    stem = f"{point.model}-{point.technique}-{point.level:g}"
    file, golden_file = f"{stem}.safetensors", f"{stem}.golden.safetensors"
    checkpoint.save(dataclasses.replace(graph, meta={"point": point.name}), data / file, "float16")
    checkpoint.save_arrays(golden, data / golden_file)
    return dataclasses.replace(
        point, file=file, sha256=sha256(data / file), golden=golden_file, golden_sha256=sha256(data / golden_file)
    )


def half(model: str) -> Point:
    """The dense network in half precision, which needs no training: measured by tools/record_one_shot.py."""
    graph = rs.compress(rs.load(model), "half")
    accuracy = zoo.one_shot()[graph.sha256()]["accuracy"]
    counts = (graph.params, graph.macs, graph.nnz, checkpoint.stored_bytes(graph, "float16"))
    return Point(model, "half", "round", None, 0, structure(graph), *counts, accuracy, facts={"recipe": {}})


def check(point: Point, judges: Sequence[Dataset]) -> None:
    """End unless the shipped predictions give the recorded counts, and the shipped network the predictions."""
    golden = zoo.golden(point.name)
    for judge in judges:
        right = int((golden[f"predictions.{judge.name}"] == judge.labels).sum())
        found = rs.evaluate(point.name, judge, "openmp", limit=IMAGES)
        if right != point.accuracy[judge.name]["correct"] or not found.passed or found.compared != found.n:
            recorded = f"the record says {point.accuracy[judge.name]}, predictions say {right}"
            raise SystemExit(f"{point.name}: {len(found.departures)} departures on {judge.name}; {recorded}")


def place(point: Point) -> tuple[Any, ...]:
    """Where a point stands in the manifest."""
    technique = ORDER.index(point.technique) if point.technique in ORDER else len(ORDER)
    method = METHODS.index(point.method) if point.method in METHODS else len(METHODS)
    return list(MODELS).index(point.model), technique, method, point.level or 0.0, point.seed


def record(results: Path, data: Path, judges: Sequence[Dataset], say: Callable[[str], object] = print) -> list[Point]:
    """Everything above; the points as they now stand in data/manifest.json."""
    content = json.loads((data / "manifest.json").read_text("utf-8"))
    for old in content.pop("points", []):
        for key in ("file", "golden"):
            (data / Path(old.get(key, "none")).name).unlink(missing_ok=True)
    points: list[Point] = []

    def write() -> None:
        points.sort(key=place)
        (data / "manifest.json").write_text(manifest_text({**content, "points": points}), "utf-8")

    def add(point: Point, graph: Graph | None = None, golden: Path | None = None) -> None:
        if wanted(point) and graph is not None and golden is not None and golden.exists():
            point = ship(point, graph, checkpoint.load_arrays(golden), data)
        points.append(point)
        write()
        if point.file is not None:
            check(point, judges)
        words = ", ".join(f"{each['top1']:.2f} % of {name}" for name, each in point.accuracy.items())
        say(f"{point.name}: {words}, {point.stored_bytes} bytes{', shipped' if point.file else ''}")

    write()
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        if not {"model", "technique", "layers", "accuracy"} <= set(found):
            continue
        graph = network(path.with_suffix(".safetensors"), found["technique"])
        add(point_of(found, graph), graph, path.with_suffix(".golden.safetensors"))
    for model in MODELS:
        add(half(model))
    size = sum((data / name).stat().st_size for point in points for name in (point.file, point.golden) if name)
    say(f"{len(points)} points, {sum(point.file is not None for point in points)} with weights: {size} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"shipped points take {size} bytes, wanted at most {MOST_BYTES}: take some out of SHIPPED")
    return points


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    cifar10 = Path(sys.argv[2])
    sets = [datasets.load(cifar10 / name) for name in ("val-lossless.tar.xz", "test.tar.xz")]
    record(Path(sys.argv[1]), zoo.data_dir(), sets)
