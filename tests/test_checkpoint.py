"""A checkpoint gives back the very graph, and is written whole or not at all; what is no checkpoint is refused."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
from files import WANTED, every, pack, refuse, small_files, unpack

from refstack import checkpoint, ops
from refstack.errors import FormatError, ResourceError, ShapeError, UsageError
from refstack.formats import Csr, Dense, Weight
from refstack.graph import INPUT, Graph, Node
from refstack.models import MODELS
from refstack.models.zoo import draw

saved = files.saved


# What is saved comes back


def test_every_op_and_format_round_trips_bit_for_bit(saved: Path) -> None:
    graph, back = every(), checkpoint.load(saved)
    assert back.sha256() == graph.sha256()
    assert {type(node.op) for node in graph} == set(ops.OPS.values())
    assert back.input_shape == graph.input_shape
    assert back.name == graph.name
    assert back.meta == graph.meta
    for ours, theirs in zip(graph, back, strict=True):
        assert (ours.name, ours.op, ours.inputs) == (theirs.name, theirs.op, theirs.inputs)
        assert type(ours.weight) is type(theirs.weight)
    again = saved.with_name("again")
    checkpoint.save(back, again)
    assert again.read_bytes() == saved.read_bytes()  # the same graph is the same file
    assert rb"{\"version\":1,\"name\":\"every\"," in saved.read_bytes()  # no space is spent on spaces
    assert checkpoint.load(again).sha256() == back.sha256()


@pytest.mark.parametrize("model", MODELS)
def test_drawn_networks_round_trip(model: str, tmp_path: Path) -> None:
    graph = draw(MODELS[model](), 3)
    checkpoint.save(graph, tmp_path / "m")
    assert checkpoint.load(tmp_path / "m").sha256() == graph.sha256()


def test_sha256_sees_a_changed_bit(saved: Path) -> None:
    graph = checkpoint.load(saved)
    header, _, data = unpack(saved)
    at = header["b.weight.values"]["data_offsets"][0]
    pack(saved, header, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert checkpoint.load(saved).sha256() != graph.sha256()


def test_a_float16_file_is_small_and_gives_the_rounded_graph(tmp_path: Path) -> None:
    graph = every()
    checkpoint.save(graph, tmp_path / "half", "float16")
    header, structure, data = unpack(tmp_path / "half")
    assert {name for name, entry in header.items() if entry.get("dtype") == "F16"} == {
        "a.weight", "fc.weight", "b.weight.values", "s.weight.values", "h.weight.values",
    }  # fmt: skip
    kept = {node["name"]: node["weight"]["format"] for node in structure["nodes"] if "weight" in node}
    assert (kept["b"], kept["s"], kept["c"], kept["h"]) == ("csr16", "bsr16", "ternary", "half")
    assert len(data) == checkpoint.stored_bytes(graph, "float16") < checkpoint.stored_bytes(graph)
    back = checkpoint.load(tmp_path / "half")
    for node in graph:
        if node.weight is None:
            continue
        ours, theirs = node.weight, back[node.name].weight
        assert type(theirs) is type(ours)
        rounds = ours.format in ("dense", "csr", "bsr") and not isinstance(node.op, ops.BatchNorm)
        wanted = ours.decode().astype(np.float16).astype(np.float32) if rounds else ours.decode()
        assert theirs.decode().tobytes() == wanted.tobytes()
        for name, array in ours.arrays().items():
            if name != "values":
                np.testing.assert_array_equal(theirs.arrays()[name], array)
    checkpoint.save(back, tmp_path / "again", "float16")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "half").read_bytes()


def test_stored_bytes_are_the_files(saved: Path) -> None:
    _, _, data = unpack(saved)
    assert checkpoint.stored_bytes(every()) == every().stored_bytes == len(data)


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    graph = every()
    graph["a"].weight.values[2, 5] = 65520  # the least float32 that rounds to infinity
    with pytest.raises(
        FormatError, match=r"a.weight: 1 values overflow float16, first 65520.0 at \(2, 5\); use float32"
    ):
        checkpoint.save(graph, tmp_path / "m", "float16")
    assert not list(tmp_path.iterdir())
    graph["a"].weight.values[2, 5] = 65519
    checkpoint.save(graph, tmp_path / "m", "float16")
    for name, at in (("b", r"\(3,\)"), ("s", r"\(3, 1, 0\)")):
        graph = every()
        graph[name].weight.values[3] *= 0
        graph[name].weight.values[(3, 1, 0) if name == "s" else 3] = -1e5
        with pytest.raises(FormatError, match=rf"{name}.weight.values: 1 values overflow float16, first .* at {at}"):
            checkpoint.save(graph, tmp_path / "m", "float16")


def test_arrays_round_trip(tmp_path: Path) -> None:
    arrays = {code: np.arange(6).reshape(2, 3).astype(code) for code in ("f8", "f4", "f2", "i8", "i4", "i1", "u1")}
    checkpoint.save_arrays(arrays, tmp_path / "arrays")
    assert unpack(tmp_path / "arrays")[1] == {"version": 1, "arrays": sorted(arrays)}
    back = checkpoint.load_arrays(tmp_path / "arrays")
    assert back.keys() == arrays.keys()
    assert all(back[name].dtype == arrays[name].dtype and np.array_equal(back[name], arrays[name]) for name in arrays)
    (tmp_path / "cut").write_bytes((tmp_path / "arrays").read_bytes()[:-1])
    with pytest.raises(
        FormatError, match=r"cut: truncated: .* take 168 bytes, 167 follow the header; copy the file again$"
    ):
        checkpoint.load_arrays(tmp_path / "cut")


@pytest.mark.parametrize("name", ["modèle ✓ a b.npz", "new\nline", os.fsdecode(b"\xff\xfe"), "x" * 250])
def test_any_file_name_will_do(name: str, tmp_path: Path) -> None:
    checkpoint.save(every(), tmp_path / name)
    assert len(checkpoint.load(tmp_path / name).nodes) == 18


# What cannot be saved


def one(op: ops.Op, shape: tuple[int, ...], weight: Weight | None = None, name: str = "n", **vectors: Any) -> Graph:
    """A graph of one node, called as the node is."""
    return Graph(name, shape, (Node(name, op, (INPUT,), weight, **vectors),))


def wide(rows: int) -> Graph:
    """As many columns as int32 counts, and no entry."""
    none = np.zeros(0, np.int32)
    return one(ops.Linear(rows), (2**31 - 1,), Csr(np.zeros(rows + 1, np.int32), none, none.astype("f4"), 2**31 - 1))


def copies(count: int) -> Graph:
    relu = Node("relu", ops.ReLU(), (INPUT,))
    return Graph("n", (1, 1, 1), (relu, Node("cat", ops.Concat(), ("relu",) * count)))


ONES = np.ones(2, np.float32)
LIMITS: dict[str, tuple[Graph, Graph, str]] = {
    "axes": (one(ops.ReLU(), (1,) * 8), one(ops.ReLU(), (1,) * 9), "n: metadata: input_shape .* list of 1 to 8 sizes"),
    "axis": (one(ops.ReLU(), (1,)), one(ops.ReLU(), ()), "n: metadata: input_shape .. and meta must be a list of 1"),
    "name": (one(ops.ReLU(), (1,), name="x" * 200), one(ops.ReLU(), (1,), name="x" * 201), "wanted 1 to 200 printable"),
    "sizes": (one(ops.ReLU(), (1,)), one(ops.ReLU(), (2**31,)), "n: input_shape: got 2147483648, wanted int within 2"),
    "values": (one(ops.ReLU(), (2**30, 1)), one(ops.ReLU(), (2**30, 2)), "node 'input': its output is .* for one imag"),
    "weight": (wide(1), wide(2), "n: node 'n': a weight of .2, 2147483647. has more than 2147483647 entries"),
    "inputs": (copies(10_000), copies(10_001), "n: node 'cat': inputs must be a list of at most 10000 node names"),
    "window": (
        one(ops.MaxPool2d((1, 1), (4096, 4096)), (1, 4, 4)),
        one(ops.MaxPool2d((1, 1), (4097, 4096)), (1, 4, 4)),
        "n: node 'n': kernel, stride, padding and dilation may be 4096 at most, got MaxPool2d",
    ),
    "batchnorm": (
        one(ops.BatchNorm(1e-3), (2, 4, 4), Dense.encode(ONES[:, None]), bias=ONES, mean=ONES, var=ONES),
        one(ops.BatchNorm(1e-3), (2, 4, 4), Csr.encode(ONES[:, None]), bias=ONES, mean=ONES, var=ONES),
        "n: node 'n': batchnorm's weight is csr, wanted dense",
    ),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_what_load_refuses_is_not_saved(limit: str, tmp_path: Path) -> None:
    last, beyond, match = LIMITS[limit]
    with pytest.raises(FormatError, match=match):
        checkpoint.save(beyond, tmp_path / "m")
    assert not list(tmp_path.iterdir())
    checkpoint.save(last, tmp_path / "m")
    assert checkpoint.load(tmp_path / "m").sha256() == last.sha256()


def test_an_unsound_graph_is_not_written(tmp_path: Path) -> None:
    graph = every()
    graph["bn"].weight.values[0] = np.nan
    with pytest.raises(FormatError, match="1 values are not finite"):
        checkpoint.save(graph, tmp_path / "m")
    with pytest.raises(FormatError, match=r"attributes or meta are not JSON .*; use numbers, words, lists"):
        checkpoint.save(replace(every(), meta={"x": np.zeros(2)}), tmp_path / "m")
    with pytest.raises(FormatError, match=r"^every: meta: NaN is not JSON$"):
        checkpoint.save(replace(every(), meta={"x": float("nan")}), tmp_path / "m")
    with pytest.raises(UsageError, match="dtype 'bfloat16', wanted float32 or float16"):
        checkpoint.save(every(), tmp_path / "m", "bfloat16")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    wanted = rf"^{saved}: cannot write \d+ bytes: File too large; free space or name another place$"
    with pytest.raises(ResourceError, match=wanted), small_files(1000):
        checkpoint.save(draw(MODELS["mobilenet"]()), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]  # no temporary file is left


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG", "ENOMEM", "EIO"])
def test_a_disk_that_fails(code: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(getattr(errno, code), "words")

    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        UsageError if code == "EIO" else ResourceError, match="bytes: words; free space or name another"
    ):
        checkpoint.save(every(), saved)
    assert (saved.read_bytes(), os.listdir(saved.parent)) == (before, [saved.name])


@pytest.mark.parametrize(
    ("place", "why"),
    [("none/m", "No such file or directory"), ("file/m", "Not a directory"), ("folder", "Is a directory")],
)
def test_a_bad_place(place: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    wanted = rf"^{tmp_path}/{place}: cannot write \d+ bytes: {why}; free space or name another place$"
    with pytest.raises(UsageError, match=wanted):
        checkpoint.save(every(), tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert not os.listdir(tmp_path / "folder")


# What is no checkpoint


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", f": not a regular file; {WANTED}$")  # and does not wait for a writer
    refuse(tmp_path, f"^{tmp_path}: is a folder; {WANTED}$")
    refuse(Path("/dev/zero"), "not a regular file")
    wanted = f"^{tmp_path}/none: cannot be read: No such file or directory; {WANTED}$"
    refuse(tmp_path / "none", wanted, UsageError)


def test_a_file_that_memory_does_not_hold(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint.container.np, "empty", full)
    refuse(saved, f"^{saved}: no memory left for a file of {saved.stat().st_size} bytes$", ResourceError)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no header at byte 8"),
        (b"\x80\x05\x95\x10\0\0\0\0\0\0\0}\x94.", "looks like a pickle, which refstack does not read"),
        (b"PK\x03\x04" + b"\0" * 60, r"looks like a zip archive \(.pt, .pth, .npz\)"),
        (b"\x93NUMPY" + b"\0" * 60, "looks like a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 60, "looks like an HDF5 file"),
        (b"\x1f\x8b" + b"\0" * 60, "looks like a gzip file"),
        (bytes(range(256)), "no header at byte 8"),
    ],
)
def test_foreign_files(content: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    refuse(tmp_path / "model.pt", rf": {match}.* \(the file has {len(content)} bytes\); {WANTED}$")


def test_safetensors_of_another_tool(tmp_path: Path) -> None:
    tensor = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    wanted = f": the metadata key 'refstack' with the network's structure is missing; {WANTED}$"
    refuse(pack(tmp_path / "m", tensor, b"\0" * 4), wanted)
    refuse(pack(tmp_path / "m", tensor | {"__metadata__": {"refstack": 1}}, b"\0" * 4), "'refstack' .* is missing")
    more = tensor | {"__metadata__": {"refstack": "{}", "x": 1}}
    refuse(pack(tmp_path / "m", more, b"\0" * 4), "header at byte 8: metadata must be text by name")


def test_truncation_at_every_byte(saved: Path) -> None:
    content, cut = saved.read_bytes(), saved.with_name("cut")
    for size in range(len(content)):
        cut.write_bytes(content[:size])
        refuse(cut, "truncated|the file has")
    for extra in (b"\0", b"\0" * 8, content):
        cut.write_bytes(content + extra)
        refuse(cut, "trailing bytes: the tensors take")
    cut.write_bytes(content)
    assert checkpoint.load(cut).sha256() == checkpoint.load(saved).sha256()


def test_flipped_bits_are_refused_or_read_as_a_sound_graph(saved: Path) -> None:
    content, flipped = saved.read_bytes(), saved.with_name("flipped")
    refused = 0
    for at in range(0, len(content), 7):
        for mask in (1, 0x80):
            flipped.write_bytes(content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
            try:
                checkpoint.load(flipped).check()
            except (FormatError, ShapeError):
                refused += 1
    assert refused > len(content) / 7  # the upper bit breaks the header's UTF-8 everywhere
