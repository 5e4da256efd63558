"""Trained points: their names, their records, their structure with drawn weights, and how they get into data/."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import like_trained

from refstack import checkpoint
from refstack.compression.structure import build, structure
from refstack.errors import DataError
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.models.points import Layer, Point, choose, hint, manifest_text, parse
from refstack.reference import run

ACCURACY = {"noise": {"top1": 12.5, "correct": 5, "n": 40}}


def a_point(technique: str = "weight", **changes: Any) -> Point:
    layers = (Layer("conv1", "dense", 2, 3, 6),)
    point = Point("vgg16", technique, "magnitude", 0.9, 0, layers, 6, 60, 6, 24, ACCURACY)
    return replace(point, **changes)


# Names and records


def test_names() -> None:
    assert a_point().name == "vgg16/weight-magnitude-0.9-s0"
    by_method = ("vgg16/weight-magnitude-0.9-s0", "vgg16/weight-magnitude-0.9")
    assert a_point().names == (*by_method, "vgg16/weight-0.9", "vgg16/weight-magnitude", "vgg16/weight")
    assert a_point("int8", method="ptq", level=None).names == ("vgg16/int8-ptq-s0", "vgg16/int8-ptq", "vgg16/int8")


def test_a_short_name_is_the_first_point_with_weights() -> None:
    random, first = a_point(method="random"), a_point(level=0.5)
    third, shipped = a_point(seed=2), a_point(seed=1, file="f")
    points = [random, first, third, shipped]
    assert choose(points, "vgg16/weight") is shipped
    assert choose(points, "vgg16/weight-0.9") is shipped
    assert choose(points, "vgg16/weight-0.5") is first
    assert choose(points, third.name) is third
    assert choose(points[:3], "vgg16/weight") is random
    assert choose(points, "vgg16/channel") is None
    assert "did you mean vgg16/weight-0.9, " in str(hint(points, "vgg16/wieght-0.9"))


def test_records_come_back() -> None:
    points = [
        a_point(facts={"recipe": {"epochs": 3}}),
        a_point(seed=1, file="a", sha256="b", golden="c", golden_sha256="d"),
        a_point("half", level=None),
    ]
    text = manifest_text({"schema_version": 1, "checkpoints": {}, "points": points})
    content = json.loads(text)
    assert parse(content["points"], "here") == points
    assert manifest_text(content) == text
    assert len(text.splitlines()) == 8 + 1, "a line for each point"
    assert json.loads(manifest_text({"schema_version": 1})) == {"schema_version": 1}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p.pop("layers"), "here: point 1: lacks layers; install refstack again"),
        (lambda p: p.update(params=-1), "a field is not of its type, or a file has no hash"),
        (lambda p: p.update(params=True), "a field is not of its type"),
        (lambda p: p.update(seed="0"), "a field is not of its type"),
        (lambda p: p.update(technique=3), "a field is not of its type"),
        (lambda p: p.update(level="0.9"), "a field is not of its type"),
        (lambda p: p.update(accuracy=[]), "a field is not of its type"),
        (lambda p: p.update(accuracy={"noise": {"top1": 50.0, "n": 40}}), "a field is not of its type"),
        (lambda p: p.update(accuracy={"noise": 50.0}), "a field is not of its type"),
        (lambda p: p.update(layers={}), "a field is not of its type"),
        (lambda p: p.update(file="x.safetensors"), "a file has no hash"),
        (lambda p: p["layers"][0].pop(), r"layer \['conv1', 'dense', 2, 3\], wanted .name, format, rows, cols"),
        (lambda p: p["layers"][0].__setitem__(4, "6"), "layer .* wanted"),
        (lambda p: p["layers"][0].__setitem__(1, "coo"), "layer conv1 has the unknown format 'coo'; update refstack"),
        (lambda p: p.update(seed=0), "here: point 1: vgg16/weight-magnitude-0.9-s0 stands there twice"),
    ],
)
def test_records_that_are_none(change: Callable[[dict[str, Any]], object], match: str) -> None:
    entries = [a_point().as_json(), a_point(seed=1).as_json()]
    change(entries[1])
    with pytest.raises(DataError, match=match):
        parse(entries, "here")
    for bad in ({}, None, "points"):
        with pytest.raises(DataError, match=r"here: points are \w+, wanted a list"):
            parse(bad, "here")
    with pytest.raises(DataError, match="point 0: lacks accuracy, layers"):
        parse([1], "here")


# Structure


def point_of(technique: str, graph: Graph, **changes: Any) -> Point:
    size = checkpoint.stored_bytes(graph, "float16")
    facts = {"params": graph.params, "macs": graph.macs, "nnz": graph.nnz, "stored_bytes": size}
    return a_point(technique, model="mobilenet", layers=structure(graph), **facts, **changes)


TECHNIQUES = ("dense", "weight", "block", "channel", "ternary", "int8", "half", "channel+int8")


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_network_is_built_like_the_point(technique: str) -> None:
    graph = like_trained(technique, zoo.draw(MODELS["mobilenet"](), 5))
    point = point_of(technique, graph)
    like = build(point, 3)
    assert (like.params, like.macs) == (graph.params, graph.macs)
    assert [replace(line, nnz=0) for line in structure(like)] == [replace(line, nnz=0) for line in point.layers]
    sparse = [line for line in structure(like) if line.format in ("csr", "bsr", "ternary")]
    assert sparse == [line for line in point.layers if line.format in ("csr", "bsr", "ternary")]
    assert bool(sparse) == (technique in ("weight", "block", "ternary"))
    assert abs(checkpoint.stored_bytes(like, "float16") / point.stored_bytes - 1) < 0.005  # columns are elsewhere
    assert like.meta["technique"] == "drawn"
    assert like.meta["point"] == point.name
    assert like.sha256() == build(point, 3).sha256() != build(point, 4).sha256()
    assert np.isfinite(run(like, np.zeros((1, 3, 32, 32), np.float32))).all()


def test_a_record_that_fits_no_network() -> None:
    point = point_of("channel", like_trained("channel", zoo.draw(MODELS["mobilenet"]())))
    lines = list(point.layers)
    with pytest.raises(DataError, match="layers fc are recorded or in mobilenet, not both"):
        build(replace(point, layers=tuple(lines[:-1])))
    lines[2] = replace(lines[2], cols=5)
    with pytest.raises(DataError, match=r"the record says Layer\(name='pw1'.*cols=5.*, a network like it has Layer"):
        build(replace(point, layers=tuple(lines)))
