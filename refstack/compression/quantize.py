"""int8 after training: weights by their size, activations by what a few images show.

    weights       scale[k] = max|w[k]| / 127, a scale for every output channel (formats/int8.py)
    activations   x ~ scale * (q - zero_point), one grid a value: low = min(0, smallest), high = max(0, largest)
                  scale = (high - low) / 255, to 12 bits      zero_point = round(-128 - low / scale)

So 0 is on every grid and padding costs nothing; after ReLU the zero point is -128.
Source      Jacob et al.: Quantization and Training of Neural Networks ..., CVPR 2018; Nagel et al.: A White Paper on
            Neural Network Quantization, 2021 (ranges by mean squared error)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from refstack.compression.calibration import check_images, compute, last_readers, smooth_images
from refstack.compression.layers import layers, recode
from refstack.errors import UsageError
from refstack.formats import Array, Dense, Int8, Quant, Ternary, Ternary8, Weight
from refstack.graph import INPUT, Graph, Node
from refstack.ops import Flatten, Linear, MaxPool2d, Quantize
from refstack.passes import prepare

SAMPLE = 1 << 18  # values that the mean squared error is taken over
SHRINK = np.linspace(1, 0.3, 29)  # shares of the full range that are tried
BIAS_STEPS = 2.0**24  # what float32 tells apart, and far below what int32 holds


def quantize_int8(graph: Graph, calibration: Array | None = None, ranges: Literal["minmax", "mse"] = "minmax") -> Graph:
    """Eight bits for every convolution and linear layer but the last linear one.

    Layers that feed only int8 layers (max-pool and flatten between them or not) put their output on the grid which
    those read; a Quantize node stands wherever else float32 becomes int8. Additions, global averages and the last
    linear layer stay float32, and so do the outputs that feed them. What was ternary becomes ternary8.

    Args
        calibration images that show the ranges, float32 (n, c, h, w); None makes up smooth ones
        ranges      "minmax": all that was seen fits; "mse": what does least harm on the mean
    Returns         Graph, folded and fused
    """
    rules: dict[str, Callable[[Array], Quant]] = {"minmax": grid, "mse": best_grid}
    if ranges not in rules:
        raise UsageError(f"int8: ranges {ranges!r}, wanted minmax or mse")
    ternary = {node.name for node in layers(graph) if isinstance(node.weight, Ternary)}
    graph = prepare(recode(graph, Dense, ternary))  # folded, a row of a ternary layer still has two values beside 0
    images = check_images(graph, smooth_images() if calibration is None else calibration)
    linear = [node.name for node in graph if isinstance(node.op, Linear)]
    chosen = {node.name for node in layers(graph)} - set(linear[-1:])
    carried = {name: _source(graph, graph[name].inputs[0]) for name in chosen}  # layer -> where its input was computed
    direct = {source for source in carried.values() if source in chosen and _feeds_only(graph, source, chosen)}
    reads = {name: source if source in direct else graph[name].inputs[0] for name, source in carried.items()}
    grids = _grids(graph, images, set(reads.values()), rules[ranges])

    nodes: list[Node] = []
    for value in (INPUT, *(node.name for node in graph)):
        if value in chosen:
            node = _int8(graph[value], grids[reads[value]], grids[value] if value in direct else None)
            if value in ternary:
                node = replace(node, weight=_ternary8(node.weight))
            inputs = node.inputs if reads[value] in direct else (f"{reads[value]}_int8",)
            nodes.append(replace(node, inputs=inputs))
        elif value != INPUT:
            nodes.append(graph[value])
        if value in grids and value not in direct:
            nodes.append(Node(f"{value}_int8", Quantize(grids[value].scale, grids[value].zero_point), (value,)))
    return graph.with_nodes(nodes)


def grid(values: Array) -> Quant:
    """The formula above over all values."""
    return _grid(float(values.min()), float(values.max()))


def best_grid(values: Array) -> Quant:
    """The grid of least mean squared error among those of a smaller range; values outside saturate."""
    sample = values.ravel()[:: max(1, values.size // SAMPLE)].astype(np.float64)
    low, high = float(values.min()), float(values.max())
    tried = [_grid(low * share, high * share) for share in SHRINK]
    errors = [np.square(each.scale * (each.quantize(sample) - np.float64(each.zero_point)) - sample) for each in tried]
    return tried[int(np.argmin([error.mean() for error in errors]))]


def _grid(low: float, high: float) -> Quant:
    low, high = min(0.0, low), max(0.0, high)
    scale = _rounded((high - low) / 255) or 1.0  # nothing but zeros: any scale will do
    return Quant(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def _rounded(scale: float) -> float:
    """To 12 significant bits: machines whose sums differ in the last place still make the same network."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(round(mantissa * 2**12), exponent - 12)


def _int8(node: Node, input: Quant, output: Quant | None) -> Node:
    """The layer in eight bits. A row of almost nothing gets a scale by which its bias still fits the accumulator."""
    assert node.weight is not None
    matrix = node.weight.decode().astype(np.float64)
    bias = np.zeros(len(matrix)) if node.bias is None else np.abs(node.bias.astype(np.float64))
    least = np.maximum(bias / BIAS_STEPS, np.finfo(np.float32).tiny) / input.scale
    scale = np.maximum(np.abs(matrix).max(axis=1) / 127, least).astype(np.float32)
    values = np.clip(np.rint(matrix / scale[:, None].astype(np.float64)), -127, 127).astype(np.int8)
    return replace(node, weight=Int8(values, scale, input, output))


def _ternary8(weight: Weight | None) -> Ternary8:
    assert isinstance(weight, Int8)
    return Ternary8(weight.values, weight.scale, weight.input, weight.output)


def _source(graph: Graph, name: str) -> str:
    """Where a value was computed: back through layers that only move numbers."""
    while name != INPUT and isinstance(graph[name].op, MaxPool2d | Flatten):
        name = graph[name].inputs[0]
    return name


def _feeds_only(graph: Graph, name: str, chosen: set[str]) -> bool:
    """Whether all readers, through layers that only move numbers, are int8 layers."""
    readers = graph.consumers(name)
    return bool(readers) and all(
        reader.name in chosen
        or (isinstance(reader.op, MaxPool2d | Flatten) and _feeds_only(graph, reader.name, chosen))
        for reader in readers
    )


def _grids(graph: Graph, images: Array, names: set[str], rule: Callable[[Array], Quant]) -> dict[str, Quant]:
    """The named values' grids, by what all images give."""
    values, grids = {INPUT: images}, {}
    for node, done in last_readers(graph):
        values[node.name] = compute(node, values)
        grids.update({name: rule(values[name]) for name in done if name in names})
        for name in done:
            del values[name]
    return grids
