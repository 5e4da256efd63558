"""Checkpoint files to save, take apart, put together and refuse; a disk that is full."""

from __future__ import annotations

import json
import re
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refstack import checkpoint, ops
from refstack.errors import FormatError
from refstack.formats import Bsr, Csr, Dense, Half, Int8, Quant, Ternary, Weight
from refstack.graph import INPUT, Graph, Node

WANTED = re.escape(checkpoint.container.WANTED)
GRID, NEXT = Quant(0.5, -3), Quant(0.25, -128)
Change = Callable[[dict[str, Any], dict[str, Any]], object]


def every() -> Graph:
    """Every op and every format, small; the same numbers each time."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, cols: int) -> np.ndarray:
        return rng.standard_normal((rows, cols)).astype(np.float32)

    def vector(size: int) -> np.ndarray:
        return np.abs(rng.standard_normal(size)).astype(np.float32)

    def conv(
        name: str, source: str, weight: Weight, k: int, size: int = 3, active: ops.Activation | None = None
    ) -> Node:
        op = ops.Conv2d((size, size), padding=(size // 2,) * 4, out_channels=k, activation=active)
        return Node(name, op, (source,), weight, vector(k))

    sparse = np.where(rng.random((4, 36)) < 0.3, matrix(4, 36), 0)
    signs = rng.integers(-1, 2, (4, 4))
    blocks = np.random.default_rng(1).standard_normal((6, 36)) * (np.arange(36) % 5 == 1)
    nodes = (
        conv("a", INPUT, Dense.encode(matrix(4, 18)), 4, active="relu6"),
        Node("bn", ops.BatchNorm(1e-3), ("a",), Dense.encode(matrix(4, 1)), vector(4), vector(4), vector(4)),
        Node("relu", ops.ReLU(), ("bn",)),
        conv("b", "relu", Csr.encode(sparse), 4),
        conv("s", "b", Bsr.encode(blocks, (4, 1)), 6),
        conv("h", "s", Half.encode(matrix(4, 6)), 4, 1),
        conv("c", "h", Ternary.encode(np.where(signs > 0, 0.5, np.where(signs < 0, -0.7, 0))), 4, 1),
        Node("add", ops.Add("relu"), ("c", "relu")),
        Node("cat", ops.Concat(), ("add", "b")),
        Node("mean", ops.AvgPool2d((2, 2), (1, 1), (1, 0, 0, 1), count_include_pad=True), ("cat",)),
        Node("q", ops.Quantize(GRID.scale, GRID.zero_point), ("mean",)),
        conv("d", "q", Int8.encode(matrix(3, 72), GRID, NEXT), 3, active="relu"),
        Node("pool", ops.MaxPool2d((2, 2), (2, 2)), ("d",)),
        conv("e", "pool", Int8.encode(matrix(2, 27), NEXT, None), 2),
        Node("gap", ops.GlobalAvgPool(), ("e",)),
        Node("flat", ops.Flatten(), ("gap",)),
        Node("fc", ops.Linear(3), ("flat",), Dense.encode(matrix(3, 2)), None),
        Node("soft", ops.Softmax(), ("fc",)),
    )
    return Graph("every", (2, 4, 4), nodes, {"model": "every", "accuracy": {"set": {"top1": 12.5}}, "word": "modèle ✓"})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "every.safetensors"
    checkpoint.save(every(), path)
    return path


def unpack(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """(header, structure, data) of a file."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    return header, json.loads(header["__metadata__"]["refstack"]), content[end:]


def pack(path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def edit(saved: Path, change: Change) -> Path:
    """The file with `change` applied to (structure, nodes by name)."""
    header, structure, data = unpack(saved)
    change(structure, {node["name"]: node for node in structure["nodes"]})
    header["__metadata__"]["refstack"] = json.dumps(structure)
    return pack(saved, header, data)


def number(node: str, **values: Any) -> Change:
    """A change of some fields of a node's weight."""
    return lambda s, n: n[node]["weight"].update(values)


def refuse(path: Path, match: str, kind: type[Exception] = FormatError) -> None:
    with pytest.raises(kind, match=match) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: ")  # every message says where
    assert "\n" not in str(caught.value)


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """No file may grow beyond `most` bytes: what a full disk does, for root too. Over before pytest writes its own."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
