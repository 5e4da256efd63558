"""Compression: a graph goes in, another comes out, with a record of what changed.

    technique   what it does                                        level
    dense       folds and fuses, nothing else                       none
    weight      magnitude pruning, CSR                              share of weights that go        0.9
    channel     removes filters by their L1 norm                    share of channels that go       0.5
    ternary     two bits a weight, two scales a layer               threshold / largest weight      0.05
    int8        eight bits for weights and activations              none
    half        sixteen bits for weights, arithmetic in float32     none

All work in one shot on a trained network. With `calibration` images weight and ternary take batch-norm statistics anew
and channel refits the layers that lost inputs, which is worth tens of percent; int8 takes its ranges from them.
Next: magnitude.py
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refstack.compression.channel import prune_channels
from refstack.compression.half import halve
from refstack.compression.layers import layers, recode
from refstack.compression.magnitude import prune_weights
from refstack.compression.quantize import quantize_int8
from refstack.compression.ternary import ternarize
from refstack.errors import UsageError
from refstack.formats import FORMATS, INTEGER
from refstack.graph import Graph
from refstack.passes import prepare

ROUNDING = ("half", "int8")
"""Formats that change the numbers they are given."""

TECHNIQUES: dict[str, Callable[..., Graph]] = {
    "dense": prepare,
    "weight": prune_weights,
    "channel": prune_channels,
    "ternary": ternarize,
    "int8": quantize_int8,
    "half": halve,
}


def compress(graph: Graph, technique: str, level: float | None = None, **options: Any) -> Graph:
    """The graph under a technique, ready for inference.

    Args
        technique   a name above
        level       how much, in the technique's own terms; None is its default
        options     the technique's further arguments (scope, calibration, ranges)
    Returns         Graph; its meta["compression"] says what was done and what became of every layer
    Raises          UsageError no such technique, level or option
    """
    if technique not in TECHNIQUES:
        raise UsageError(f"unknown technique {technique!r}, wanted one of {', '.join(TECHNIQUES)}")
    function = TECHNIQUES[technique]
    allowed = {name: p.default for name, p in inspect.signature(function).parameters.items() if name != "graph"}
    given = options if level is None else {"level": level, **options}
    for name in given:
        if name not in allowed:
            raise UsageError(f"{technique} takes no {name}; it takes {', '.join(allowed) or 'no options'}")
    graph.check()
    compressed = function(graph, **given)
    compressed.check()
    used = {name: _word(value) for name, value in {**allowed, **given}.items()}
    record = {"technique": technique, "level": used.pop("level", None), "options": used}
    meta = dict(graph.meta)
    if technique != "dense":  # what was recorded of the trained file does not hold for this one
        record["of"] = {key: meta.pop(key) for key in ("technique", "sha256", "accuracy") if key in meta}
        meta["technique"] = technique
    record["layers"] = _changes(graph, compressed)
    return Graph(graph.name, compressed.input_shape, compressed.nodes, {**meta, "compression": record})


def to_format(graph: Graph, format: str) -> Graph:
    """The same numbers stored in another format, every convolution and linear layer: dense, csr, bsr or ternary.

    Raises      UsageError unknown format, or int8, ternary8 or half, which change the numbers; FormatError
                a weight that the format cannot hold exactly
    """
    if format not in FORMATS or format in (*ROUNDING, *INTEGER):
        exact = ", ".join(name for name in FORMATS if name not in (*ROUNDING, *INTEGER))
        hint = f"; {format} is a technique: compress(graph, {format!r})" if format in ROUNDING else ""
        raise UsageError(f"no exact format {format!r}, wanted one of {exact}{hint}")
    return recode(graph, FORMATS[format])


def _changes(before: Graph, after: Graph) -> list[dict[str, Any]]:
    """A line for every layer: format, shape before and after, non-zeros, bytes."""
    lines = []
    for node in layers(after):
        old, new = before[node.name].weight, node.weight
        assert old is not None
        assert new is not None
        line = {"name": node.name, "op": node.op.name, "format": new.format, "nnz": new.nnz, "bytes": new.nbytes}
        lines.append(
            line
            | {"rows": new.shape[0], "cols": new.shape[1], "rows_before": old.shape[0], "cols_before": old.shape[1]}
        )
    return lines


def _word(value: Any) -> Any:
    """An option as it stands in the record; images by their number and hash."""
    if isinstance(value, np.ndarray):
        return {"images": len(value), "sha256": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}
    return dict(value) if isinstance(value, Mapping) else value
