"""Networks as ONNX files for other runtimes, each layer of which was compared before there is a file.

    graph  ->  bytes of an ONNX model (onnx_graph.py)  ->  another code base runs them  ->  every layer inside its bound
           ->  the file

Next: docs/export.md
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from refstack import ops
from refstack.compare import Check, check
from refstack.compression.calibration import smooth_images
from refstack.container import write_bytes
from refstack.contract import U
from refstack.errors import BackendUnavailable, CheckFailed, UsageError
from refstack.formats import Array, Int8, Quant
from refstack.graph import INPUT, Graph, Node
from refstack.kernels import case_of
from refstack.reference import layer

IMAGES = 2
"""That a model of any batch size is compared on."""

ROUNDINGS = 5
"""Of float32 in another runtime's requantization: two for the scales' ratio, one each for the sum and the product, and
one to spare for the scale itself, which refstack keeps in float64."""

JUDGES = {"onnxruntime": "run", "onnx": "evaluate"}
"""Who may run what was written, the quick one first, and by which function of onnx_graph."""


@dataclass(frozen=True)
class Export:
    """An ONNX file that was written.

    batch           images that it takes, None for any number
    compared_by     who ran it for the comparison, with version
    layers          a Check for every layer, each on the inputs that the other runtime gave it
    """

    path: Path
    size_bytes: int
    opset: int
    batch: int | None
    compared_by: str
    layers: tuple[Check, ...] = field(repr=False)

    @property
    def worst(self) -> Check:
        """The layer with the largest error in units of its bound."""
        return max(self.layers, key=lambda each: each.worst)


def export(
    graph: Graph, path: str | os.PathLike[str], *, batch: int | None = None, compare_by: str | None = None
) -> Export:
    """Write a network as an ONNX model of standard operators, after another code base has run it and agreed.

    `input` is float32 (batch, c, h, w), preprocessed as for refstack; `output` is the last layer's value. Sparse,
    ternary and half weights become dense float32; int8 layers stay int8 (QuantizeLinear, ConvInteger, MatMulInteger,
    QLinearConv). An older file is replaced, in one step.

    Args
        path        ends in .onnx
        batch       images of every call; None leaves it to the caller
        compare_by  onnxruntime, or onnx for its own slow reference; None takes the first that is installed
    Raises      BackendUnavailable  no onnx here
                CheckFailed         a layer outside its bound, or a model that the other runtime refuses; nothing is
                                    written, an older file stays
                FormatError         a network that ONNX cannot hold
                UsageError          another ending, a batch below 1, a place that cannot be written
    Cost        two inferences of IMAGES or `batch` images by the other runtime and in float64
    Numerics    each layer is held to what docs/numerics.md allows; int8 values within a rounding of a half may be a
                step off, since ONNX takes halves to even
    """
    path, onnx_graph, judge = Path(path), _onnx_graph(), _judge(compare_by)
    if path.suffix != ".onnx":
        raise UsageError(f"export: got {str(path)!r}, wanted a file that ends in .onnx")
    if batch is not None and batch < 1:
        raise UsageError(f"export: batch is {batch}, wanted at least 1; leave it out for any size")
    graph.check()
    content: bytes = onnx_graph.network(graph, batch).SerializeToString()
    layers, _ = compare(graph, content, _images(graph, batch or IMAGES), judge)
    failed = [each for each in layers if not each.passed]
    if failed:
        raise CheckFailed(f"{path}: not written, {len(failed)} of {len(layers)} layers are wrong: {failed[0]}")
    write_bytes(path, content)
    version = importlib.metadata.version(judge)
    return Export(path, len(content), onnx_graph.OPSET, batch, f"{judge} {version}", layers)


def compare(graph: Graph, content: bytes, x: Array, judge: str) -> tuple[tuple[Check, ...], Array]:
    """What another code base computes with an ONNX model of `graph`, layer by layer; and whether the weights are there.

    The weights of convolutions and linear layers are compared bit by bit as well: where an input is 0 no output shows
    them.

    Args        content     the model, as in a file
                x           float32 (n, c, h, w)
                judge       onnxruntime or onnx
    Returns     a Check for every layer, on the inputs that the other code base gave it; the model's output
    Raises      CheckFailed     it does not run there, or its output is not its last layer's value
                FormatError     ONNX's checker refuses it
    """
    onnx_graph = _onnx_graph()
    model = onnx_graph.watched(content, [node.name for node in graph])
    try:
        values: Mapping[str, Array] = getattr(onnx_graph, JUDGES[judge])(model, {INPUT: x})
    except MemoryError:
        raise
    except Exception as error:  # each runtime has its own tree of errors
        raise CheckFailed(f"{graph.name}: {judge} does not run the model: {error}") from None
    if not np.array_equal(values[onnx_graph.OUTPUT], values[graph.output], equal_nan=True):
        raise CheckFailed(f"{graph.name}: the model's output is not the value of its last layer, {graph.output}")
    values = {**values, INPUT: x}
    layers = []
    for node in graph:
        verdict = agree(node, tuple(values[name] for name in node.inputs), values[node.name], judge)
        if isinstance(node.op, ops.Conv2d | ops.Linear) and not verdict.problem:
            assert node.weight is not None
            wanted = node.weight.values if isinstance(node.weight, Int8) else node.weight.decode()
            if not np.array_equal(onnx_graph.weight_of(model, node), wanted):
                verdict = replace(verdict, problem="The model's weight is another than the network's.")
        layers.append(verdict)
    return tuple(layers), values[onnx_graph.OUTPUT]


def agree(node: Node, inputs: tuple[Array, ...], y: Array, judge: str = "") -> Check:
    """Hold another runtime's output of one layer to its bound; int8 within a rounding of a half may be a step off."""
    word = case_of(node, tuple(x.shape for x in inputs), inputs[0].dtype.type, y.dtype.type).word
    verdict = check(node, inputs, y, judge, word)
    if verdict.worst <= 1 or verdict.problem or y.dtype != np.int8 or not _rounds(node):
        return verdict
    real, grid = _unrounded(node, inputs[0])
    half = np.abs(real - np.floor(real) - 0.5) <= ROUNDINGS * U * np.abs(real)
    apart = np.abs(y.astype(int) - layer(node, *inputs).astype(int))
    if np.isfinite(real).all() and (apart <= half).all() and grid.scale > 0:
        return Check(node.name, judge, word, y.size, 0, 0.0)
    return verdict


def _rounds(node: Node) -> bool:
    """Whether the layer rounds real numbers to int8, where the two take halves elsewhere: ours up, theirs to even."""
    return isinstance(node.op, ops.Quantize) or (isinstance(node.weight, Int8) and node.weight.output is not None)


def _unrounded(node: Node, x: Array) -> tuple[Array, Quant]:
    """What an int8 output is the rounding of, in steps of its grid."""
    if isinstance(node.op, ops.Quantize):
        return x.astype(np.float64) / node.op.scale, Quant(node.op.scale, node.op.zero_point)
    weight = node.weight
    assert isinstance(weight, Int8)
    assert weight.output is not None
    plain = type(node.op)(**{**vars(node.op), "activation": None})
    units = Int8(weight.values, np.ones_like(weight.scale), Quant(1.0, weight.input.zero_point))
    column = (-1, 1, 1) if x.ndim == 4 else (-1,)
    sums = layer(Node("sums", plain, node.inputs, units), x).astype(np.float64)
    sums = sums + weight.integer_bias(node.bias).reshape(column)
    return sums * (weight.unit.astype(np.float64) / weight.output.scale).reshape(column), weight.output


def _images(graph: Graph, n: int) -> Array:
    """Smooth ones where the network takes such, else normal numbers."""
    images = smooth_images(n)
    if images.shape[1:] == graph.input_shape:
        return images
    return np.random.default_rng(0).standard_normal((n, *graph.input_shape)).astype(np.float32)


def _onnx_graph() -> ModuleType:
    """The module that needs onnx, or BackendUnavailable."""
    try:
        from refstack import onnx_graph
    except ImportError as error:
        raise BackendUnavailable(
            f'exporting needs onnx, which cannot be imported ({error}); pip install "refstack-engine[onnx]"'
        ) from None
    return onnx_graph


def _judge(asked: str | None) -> str:
    """The one asked for, else the first that is installed."""
    if asked is not None and asked not in JUDGES:
        raise UsageError(f"export: compare_by is {asked!r}, wanted {' or '.join(JUDGES)}")
    there = [name for name in JUDGES if importlib.util.find_spec(name)]
    if asked is not None and asked not in there:
        raise BackendUnavailable(f"export: {asked} is not installed; pip install {asked}")
    return asked or there[0]
