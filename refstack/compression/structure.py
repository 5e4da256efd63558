"""A point's network without its weights: the same layers, channels, formats and numbers of non-zeros, drawn values.

What it computes means nothing. What it takes in time and memory is the trained network's, as far as that does not hang
on where in a layer the non-zeros stand: here they stand anywhere.
Next: trained.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from refstack.compression.channel import units
from refstack.compression.layers import layers, recode
from refstack.compression.quantize import quantize_int8
from refstack.errors import DataError
from refstack.formats import FORMATS, Array, Dense, Ternary
from refstack.formats.bsr import BLOCK
from refstack.graph import Graph, Node
from refstack.models import MODELS
from refstack.models.points import Layer, Point
from refstack.models.zoo import draw
from refstack.passes import prepare, shrink_channels


def build(point: Point, seed: int = 0) -> Graph:
    """The point's network with weights of zoo.draw, of which as many stay as the point has.

    Returns     Graph, folded and fused; meta's technique is "drawn", `point` is the full name
    Raises      DataError   the record does not fit the network
    """
    lines = {line.name: line for line in point.layers}
    whole = MODELS[point.model]()
    unknown = sorted(set(lines) ^ {node.name for node in layers(whole)})
    if unknown:
        raise DataError(f"{point.name}: layers {', '.join(unknown)} are recorded or in {point.model}, not both")
    keep: dict[str, Array] = {}
    for unit, tied in units(whole).items():
        keep |= dict.fromkeys(tied, np.arange(min(lines[unit].rows, _rows(whole[unit]))))
    graph = draw(shrink_channels(whole, keep), seed)
    rng = np.random.default_rng(seed)
    matrices = {node.name: _sparse(_matrix(node), lines[node.name], rng) for node in layers(graph)}
    signs = {name: Ternary.encode(np.sign(each) / 8) for name, each in matrices.items() if _is(lines[name], "ternary")}
    graph = prepare(recode(recode(graph, {name: Dense(each) for name, each in matrices.items()}), signs))
    for format in ("csr", "bsr", "half"):
        graph = recode(graph, FORMATS[format], [name for name, line in lines.items() if _is(line, format)])
    if any(_is(line, "int8") for line in lines.values()):
        graph = quantize_int8(graph)
    _compare(point, graph, lines)
    return replace(graph, meta={"model": point.model, "technique": "drawn", "seed": seed, "point": point.name})


def structure(graph: Graph) -> tuple[Layer, ...]:
    """What a point records of its network."""
    found = []
    for node in layers(graph):
        assert node.weight is not None
        found.append(Layer(node.name, node.weight.format, *node.weight.shape, node.weight.nnz))
    return tuple(found)


def _is(line: Layer, format: str) -> bool:
    return line.format == format


def _matrix(node: Node) -> Array:
    assert node.weight is not None
    return node.weight.decode()


def _rows(node: Node) -> int:
    assert node.weight is not None
    return node.weight.shape[0]


def _sparse(matrix: Array, line: Layer, rng: np.random.Generator) -> Array:
    """The matrix with `nnz` entries left, anywhere; for bsr in whole blocks of rows, the last one perhaps in part."""
    if not FORMATS[line.format].sparse:
        return matrix
    mask: Array = np.zeros(matrix.shape, bool)
    if line.format == "bsr":
        r = BLOCK[0]
        places = rng.permutation(-(-len(mask) // r) * mask.shape[1])
        row, column = np.divmod(places, mask.shape[1])
        whole = np.minimum(len(mask) - r * row, r)  # the last row of blocks may be lower
        filled = np.diff(np.minimum(np.cumsum(whole), line.nnz), prepend=0)
        for k in range(r):
            mask[(r * row + k)[filled > k], column[filled > k]] = True
    else:
        mask.flat[rng.permutation(mask.size)[: line.nnz]] = True
    return matrix * mask


def _compare(point: Point, graph: Graph, lines: Mapping[str, Layer]) -> None:
    """DataError unless the network has the recorded structure; a zero that is stored may be another number here."""
    for got in structure(graph):
        wanted = lines[got.name]
        if replace(got, nnz=got.nnz if FORMATS[got.format].sparse else wanted.nnz) != wanted:
            raise DataError(f"{point.name}: the record says {wanted}, a network like it has {got}")
