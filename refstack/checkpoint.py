"""Graphs on disk: one safetensors file holds the tensors and, as strict JSON, the structure. No code is ever loaded.

    tensors     <node>.weight               dense matrix (rows, cols), float32 or float16
                <node>.weight.<field>       each array of any other format
                <node>.bias  .mean  .var    float32
    metadata    "refstack" -> {"version", "name", "input_shape", "nodes", "meta"}
                a node: name, op, attributes, inputs, format and its numbers

A float16 file holds matrices in half precision, and csr and bsr packed (formats/packed.py); ternary, int8 and half are
small already. Loading gives the ordinary formats back, with float16's values.

A file is hostile until it is proved sound: header first, then sizes, then structure, then every value.
Layout      container.py, formats/packed.py
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

import numpy as np

from refstack import container
from refstack.container import MAX_AXES, keys
from refstack.errors import FormatError, RefstackError, ResourceError, UsageError
from refstack.formats import FORMATS, Array, Dense, Int8, Quant, Weight
from refstack.formats.base import require_finite
from refstack.formats.half import to_float16
from refstack.formats.packed import PACKED
from refstack.graph import INPUT, Graph, Node
from refstack.ops import OPS, BatchNorm, Concat, Flatten, MaxPool2d, Quantize, Window

VERSION = 1
Dtype = Literal["float32", "float16"]
VECTORS = ("bias", "mean", "var")
MAX_NODES = 10_000
MAX_WINDOW = 4096
LARGEST = 2**31 - 1
"""Kernels index with int32: the bound of every integer, of every activation of one image, of every weight matrix."""
WORDS = {int: f"int within {LARGEST}", float: "finite float", bool: "bool"}

_hints = cache(typing.get_type_hints)
"""Types of a class's fields; found anew for each node they would leave as much memory behind as a small plan takes."""


def save(graph: Graph, path: str | os.PathLike[str], dtype: Dtype = "float32") -> None:
    """Write `graph`, all of it or nothing: the file appears under its name only when it is complete and on disk.

    Args        dtype   "float16" rounds the weights of convolutions and linear layers, and packs sparse ones
    Raises      ResourceError no space left (an older file stays); FormatError a weight float16 cannot hold;
                ShapeError, FormatError the graph is not sound, or beyond what `load` reads
    """
    graph.check()
    half = _half(dtype)
    # No two are called alike: node names differ, and no format has a field of the name weight, bias, mean or var.
    tensors = {name: np.ascontiguousarray(each) for node in graph for name, each in _arrays(node, half).items()}
    try:
        text = json.dumps(_describe(graph, half), separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{graph.name}: attributes or meta are not JSON ({error}); use numbers, words, lists"
        ) from None
    try:
        _rebuild(container.parse(text, "meta"), dict(tensors))  # nothing is written that would not be read
    except RefstackError as error:
        raise type(error)(f"{graph.name}: {error}") from None
    container.write(Path(path), tensors, text)


def stored_bytes(graph: Graph, dtype: Dtype = "float32") -> int:
    """Bytes of all tensors that `save` writes: encodings with their indices and scales, biases, statistics."""
    return sum(array.nbytes for node in graph for array in _arrays(node, _half(dtype)).values())


def load(path: str | os.PathLike[str]) -> Graph:
    """Read a graph and check all of it: file, header, structure, shapes, values.

    Returns     Graph, float16 matrices widened to float32
    Raises      UsageError the file cannot be opened; FormatError, ShapeError it is not a sound checkpoint (the
                message names file and tensor or node); ResourceError no memory for it
    """
    path = Path(path)
    try:
        text, tensors = container.read(path)
        return _rebuild(container.parse(text, f"metadata {container.KEY!r}"), tensors)
    except MemoryError:
        raise ResourceError(f"{path}: no memory left for a file of {path.stat().st_size} bytes") from None
    except (UsageError, ResourceError):
        raise
    except RefstackError as error:
        raise type(error)(f"{path}: {error}") from None


def save_arrays(arrays: Mapping[str, Array], path: str | os.PathLike[str]) -> None:
    """Write arrays that are no network (golden values and the like) into the same container."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    container.write(Path(path), contiguous, json.dumps({"version": VERSION, "arrays": sorted(arrays)}))


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """What save_arrays wrote. FormatError naming the file unless it is sound."""
    try:
        return container.read(Path(path))[1]
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _half(dtype: Dtype) -> bool:
    if dtype not in ("float32", "float16"):
        raise UsageError(f"checkpoint: dtype {dtype!r}, wanted float32 or float16")
    return dtype == "float16"


# Structure: what is written beside the tensors, and back


def _encoding(node: Node, half: bool) -> Any:
    """What the file holds of a node's weight: itself, or its packed form."""
    assert node.weight is not None
    packed = PACKED.get(node.weight.format)
    if packed is not None and (half or not packed.rounds):
        return packed.pack(node.weight, f"{node.name}.weight.values")  # type: ignore[arg-type]
    return node.weight


def _arrays(node: Node, half: bool) -> dict[str, Array]:
    """A node's arrays by tensor name, as they are written."""
    found: dict[str, Array] = {}
    if node.weight is not None:
        encoding = _encoding(node, half)
        for field in dataclasses.fields(encoding):
            array = getattr(encoding, field.name)
            if isinstance(array, np.ndarray):
                name = _tensor(node.name, encoding.format, field.name)
                rounded = half and isinstance(encoding, Dense) and not isinstance(node.op, BatchNorm)
                found[name] = to_float16(array, name) if rounded else array
    vectors = {f"{node.name}.{name}": getattr(node, name) for name in VECTORS}
    return found | {name: array for name, array in vectors.items() if array is not None}


def _tensor(node: str, format: str, field: str) -> str:
    return f"{node}.weight" if format == Dense.format else f"{node}.weight.{field}"


def _describe(graph: Graph, half: bool) -> dict[str, Any]:
    nodes = []
    for node in graph:
        entry: dict[str, Any] = {"name": node.name, "op": node.op.name, "inputs": node.inputs}
        entry["attributes"] = dataclasses.asdict(node.op)
        if node.weight is not None:
            encoding = _encoding(node, half)
            entry["weight"] = {"format": encoding.format} | _numbers(encoding)
        nodes.append(entry)
    meta = dict(graph.meta)
    return {"version": VERSION, "name": graph.name, "input_shape": graph.input_shape, "nodes": nodes, "meta": meta}


def _numbers(encoding: Any) -> dict[str, Any]:
    """The fields that are not arrays: csr's columns, int8's grids."""
    fields = {field.name: getattr(encoding, field.name) for field in dataclasses.fields(encoding)}
    return {
        name: dataclasses.asdict(value) if isinstance(value, Quant) else value
        for name, value in fields.items()
        if not isinstance(value, np.ndarray)
    }


def _rebuild(structure: Any, left: dict[str, Array]) -> Graph:
    """The graph. Tensors are taken out of `left`, so that no packed or half form outlives the one it becomes."""
    for name, array in left.items():
        if array.dtype.kind == "f":
            require_finite(array, f"tensor {name}")
    keys(structure, {"version", "name", "input_shape", "nodes", "meta"}, "metadata")
    if type(structure["version"]) is not int or structure["version"] != VERSION:
        raise FormatError(f"version {structure['version']!r:.40}, wanted {VERSION}; update refstack or save it anew")
    shape, entries, meta = structure["input_shape"], structure["nodes"], structure["meta"]
    if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_AXES or not isinstance(meta, dict):
        raise FormatError(
            f"metadata: input_shape {shape!r:.60} and meta must be a list of 1 to {MAX_AXES} sizes and an object"
        )
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_NODES:
        raise FormatError(f"metadata: nodes must be a list of 1 to {MAX_NODES}")
    input_shape = tuple(_typed(size, int, "input_shape") for size in shape)
    nodes = tuple(_node(entry, left, f"node {i}") for i, entry in enumerate(entries))
    if left:
        stray = sorted(left)
        raise FormatError(f"tensor {stray[0]!r:.80} belongs to no node ({len(stray)} such tensors)")
    graph = Graph(_name(structure["name"], "metadata"), input_shape, nodes, meta)
    graph.check()
    _check_sizes(graph)
    _check_grids(graph)
    return graph


def _node(entry: Any, tensors: dict[str, Array], where: str) -> Node:
    """A node, its arrays taken out of `tensors`."""
    extra = {"weight"} if isinstance(entry, dict) and "weight" in entry else set()
    keys(entry, {"name", "op", "inputs", "attributes"} | extra, where)
    name = _name(entry["name"], where)
    where = f"node {name!r}"
    if entry["op"] not in list(OPS):
        raise FormatError(f"{where}: unknown op {entry['op']!r:.60}, wanted one of {', '.join(OPS)}")
    if not isinstance(entry["inputs"], list) or len(entry["inputs"]) > MAX_NODES:
        raise FormatError(f"{where}: inputs must be a list of at most {MAX_NODES} node names")
    inputs = tuple(_name(each, where) for each in entry["inputs"])
    op = _dataclass(OPS[entry["op"]], entry["attributes"], where)
    if isinstance(op, Window) and max(*op.kernel, *op.stride, *op.padding, *op.dilation) > MAX_WINDOW:
        raise FormatError(f"{where}: kernel, stride, padding and dilation may be {MAX_WINDOW} at most, got {op}")
    weight = _weight(name, entry["weight"], tensors, op) if extra else None
    vectors = {vector: tensors.pop(f"{name}.{vector}", None) for vector in VECTORS}
    return Node(name, op, inputs, weight, **vectors)


def _weight(node: str, entry: Any, tensors: dict[str, Array], op: Any) -> Weight:
    where = f"node {node!r}: weight"
    encodings: dict[str, Any] = FORMATS | {packed.format: packed for packed in PACKED.values()}
    if not isinstance(entry, dict) or entry.get("format") not in list(encodings):
        got = entry.get("format") if isinstance(entry, dict) else entry
        raise FormatError(f"{where}: unknown format {got!r:.60}, wanted one of {', '.join(encodings)}")
    numbers = {key: value for key, value in entry.items() if key != "format"}
    kind = encodings[entry["format"]]
    hints = _hints(kind)
    arrays: dict[str, Array] = {}
    for field in dataclasses.fields(kind):
        if hints[field.name] == Array:
            name = _tensor(node, kind.format, field.name)
            if name not in tensors:
                raise FormatError(f"{where}: tensor {name!r} is missing from the file")
            arrays[field.name] = tensors.pop(name)
    if kind is Dense and not isinstance(op, BatchNorm) and arrays["values"].dtype == np.float16:
        arrays["values"] = arrays["values"].astype(np.float32)
    encoding = _dataclass(kind, numbers, where, arrays)
    try:
        weight: Weight = encoding if isinstance(encoding, Weight) else encoding.unpack()
        weight.check()
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    return weight


def _check_sizes(graph: Graph) -> None:
    """What Graph.check leaves open: nothing is empty, nothing is beyond int32."""
    for name, shape in graph.shapes().items():
        if min(shape) < 1 or math.prod(shape) > LARGEST:
            raise FormatError(f"node {name!r}: its output is {shape} for one image, wanted 1 to {LARGEST} values")
    for node in graph:
        if node.weight is not None and math.prod(node.weight.shape) > LARGEST:
            raise FormatError(f"node {node.name!r}: a weight of {node.weight.shape} has more than {LARGEST} entries")


def _check_grids(graph: Graph) -> None:
    """Every layer reads what it is made for: int8 layers the very grid that their input is on, all others float32."""
    grids: dict[str, Quant | None] = {INPUT: None}
    for node in graph:
        got = [grids[name] for name in node.inputs]
        wanted = node.weight.input if isinstance(node.weight, Int8) else None
        if isinstance(node.op, MaxPool2d | Flatten | Concat):
            wanted = got[0]
        if any(grid != wanted for grid in got):
            raise FormatError(f"node {node.name!r}: {node.op.name} reads {got}, wanted {wanted} (None is float32)")
        grids[node.name] = wanted
        if isinstance(node.op, Quantize):
            grids[node.name] = Quant(node.op.scale, node.op.zero_point)
        elif node.weight is not None:
            grids[node.name] = node.weight.output if isinstance(node.weight, Int8) else None
            if isinstance(node.op, BatchNorm) and not isinstance(node.weight, Dense):
                raise FormatError(f"node {node.name!r}: batchnorm's weight is {node.weight.format}, wanted dense")


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise FormatError(f"{where}: name {value!r:.60}, wanted 1 to 200 printable characters")
    return value


def _dataclass(cls: Any, values: Any, where: str, arrays: Mapping[str, Array] | None = None) -> Any:
    """An instance from JSON values, every field present, typed as declared, and none beside; `arrays` fill the rest."""
    hints, arrays = _hints(cls), arrays or {}
    names = [field.name for field in dataclasses.fields(cls) if field.name not in arrays]
    keys(values, set(names), where)
    typed = {name: _typed(values[name], hints[name], f"{where}: {name}") for name in names}
    try:
        return cls(**typed, **arrays)
    except RefstackError as error:
        raise type(error)(f"{where}: {error}") from None


def _typed(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as the type hint asks: a list for a tuple, no bool for an int, no number that is too large."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        inner = next(each for each in choices if each is not NoneType)
        return None if value is None else _typed(value, inner, where)
    if origin is tuple and isinstance(value, list) and len(value) == len(choices):
        return tuple(_typed(each, choice, where) for each, choice in zip(value, choices, strict=True))
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where)
    if origin is Literal and isinstance(value, str) and value in choices:
        return value
    if hint is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is int and type(value) is int and abs(value) <= LARGEST:
        return value
    if hint is bool and type(value) is bool:
        return value
    raise FormatError(f"{where}: got {value!r:.60}, wanted {WORDS.get(hint, hint)}")
