"""A checkpoint whose numbers were tampered with, plain or packed, gets a FormatError that says where."""

from __future__ import annotations

import copy
import os
import struct
from pathlib import Path

import files
import numpy as np
import pytest
from files import Change, edit, every, number, pack, refuse, unpack

from refstack import checkpoint, ops
from refstack.errors import RefstackError
from refstack.formats import Bsr, Csr
from refstack.graph import INPUT, Graph, Node

saved = files.saved


def poke(saved: Path, tensor: str, at: int, code: str, value: float) -> Path:
    header, _, data = unpack(saved)
    start = header[tensor]["data_offsets"][0] + at * struct.calcsize(code)
    blob = bytearray(data)
    struct.pack_into("<" + code, blob, start, value)
    return pack(saved, header, bytes(blob))


@pytest.mark.parametrize(
    "tensor", ["a.weight", "a.bias", "b.weight.values", "c.weight.scales", "d.weight.scale", "bn.var"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(saved: Path, tensor: str, value: float) -> None:
    refuse(poke(saved, tensor, 1, "f", value), rf"tensor {tensor}: 1 values are not finite, the first is {value} at \(")


@pytest.mark.parametrize(
    ("tensor", "at", "code", "value", "match"),
    [
        ("bn.var", 2, "f", -1.0, "every.bn: var is negative at channel 2"),
        ("b.weight.indptr", 0, "i", 1, "csr.indptr: must run from 0"),
        ("b.weight.indptr", 4, "i", 10**6, "csr.indptr: must run from 0"),
        ("b.weight.indptr", 2, "i", 10**6, "csr.indptr: falls after row 2"),
        ("b.weight.indptr", 2, "i", -5, "csr.indptr: falls after row 1"),
        ("b.weight.indices", 0, "i", 36, "csr.indices: column 36 at entry 0, wanted 0 to 35"),
        ("b.weight.indices", 0, "i", -1, "csr.indices: column -1 at entry 0"),
        ("b.weight.indices", 1, "i", 0, "csr.indices: columns must rise within a row, entry 1 does not"),
        ("c.weight.codes", 2, "B", 0b00001100, r"ternary.codes: code 3 at \(2, 1\) is illegal"),
        ("c.weight.scales", 1, "f", -0.5, "ternary.scales: .* must not be negative"),
        ("d.weight.values", 5, "b", -128, "int8.values: -128 is not used"),
        ("d.weight.scale", 2, "f", 0.0, "int8.scale: row 2 has a scale that is not positive"),
    ],
)
def test_values_that_break_an_encoding(saved: Path, tensor: str, at: int, code: str, value: float, match: str) -> None:
    refuse(poke(saved, tensor, at, code, value), match, RefstackError)


def test_row_pointers_whose_steps_wrap_around(tmp_path: Path) -> None:
    """Each step is positive in int32 arithmetic; a kernel that trusts them reads out of bounds."""
    weight = Csr(np.zeros(5, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), 9)
    op = ops.Conv2d((3, 3), out_channels=4)
    checkpoint.save(Graph("wrap", (1, 3, 3), (Node("b", op, (INPUT,), weight),)), tmp_path / "m")
    for at, value in ((1, 2**31 - 1), (2, -(2**31) + 1)):
        poke(tmp_path / "m", "b.weight.indptr", at, "i", value)
    refuse(tmp_path / "m", "csr.indptr: falls after row 1")


def test_a_file_that_changed_since_its_header_was_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another program cuts off after the first look is missed, not taken from whatever memory held."""
    look = checkpoint.container._check_header

    def then_cut(header: bytes, data_bytes: int) -> object:
        found = look(header, data_bytes)
        os.truncate(saved, saved.stat().st_size - 1)
        return found

    monkeypatch.setattr(checkpoint.container, "_check_header", then_cut)
    refuse(saved, "tensor '.*': the file ends inside; is another program writing to it")


def test_fields_that_are_copied_do_not_share_the_file(saved: Path) -> None:
    graph = checkpoint.load(saved)
    before = copy.deepcopy(graph.sha256())
    saved.write_bytes(b"\xff" * saved.stat().st_size)
    assert graph.sha256() == before


# Packed: the same nodes in a float16 file


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    checkpoint.save(every(), path, "float16")
    return path


PACKED: dict[str, tuple[Change, str]] = {
    "cols": (number("b", cols=10), "csr16.steps: entry .* is at column .*, wanted 0 to 9"),
    "cols many": (number("b", cols=37), "weight is .4, 37., conv2d wants .4, 36."),
    "cols negative": (number("b", cols=-1), "csr16.steps: entry 0 is at column"),
    "height": (number("s", height=9), "bsr.indptr: 2 rows of blocks for 9 rows"),
    "key": (number("b", dtype="float16"), "node 'b': weight: has .* wanted exactly the keys"),
    "plain": (number("b", format="csr"), "tensor 'b.weight.indices' is missing"),
    "other": (number("b", format="bsr16"), "has .'cols'., wanted exactly the keys .'cols', 'height'.|bsr16.values"),
}


@pytest.mark.parametrize("case", PACKED)
def test_bad_packed_structures(case: str, small: Path) -> None:
    change, match = PACKED[case]
    refuse(edit(small, change), match, RefstackError)


@pytest.mark.parametrize(
    ("tensor", "at", "code", "value", "match"),
    [
        ("b.weight.indptr", 0, "i", 1, "csr16.indptr: must run from 0"),
        ("b.weight.indptr", 4, "i", 10**6, "csr16.indptr: must run from 0"),
        ("b.weight.indptr", 2, "i", 10**6, "csr16.indptr: falls after row 2"),
        ("b.weight.indptr", 2, "i", -(2**31), "csr16.indptr: falls after row 1"),
        ("b.weight.steps", 0, "B", 254, "csr16.steps: entry 0 is at column 254, wanted 0 to 35"),
        ("b.weight.steps", 0, "B", 255, "csr16.indptr: must run from 0 to the .* stored entries"),
        ("b.weight.values", 1, "H", 0x7C00, "tensor b.weight.values: 1 values are not finite"),
        ("s.weight.indptr", 1, "i", 3, "bsr16.steps: entry .* is at column .*, wanted 0 to 35"),
        ("s.weight.steps", 2, "B", 200, "bsr16.steps: entry 2 is at column 20., wanted 0 to 35"),
        ("s.weight.steps", 0, "B", 255, "bsr16.indptr: must run from 0"),
        ("s.weight.values", 4 * 14 - 1, "H", 0x3C00, "bsr.values: a block holds numbers beyond the matrix .6, 36."),
        ("h.weight.values", 0, "H", 0xFE00, "tensor h.weight.values: 1 values are not finite"),
    ],
)
def test_values_that_break_a_packed_weight(
    small: Path, tensor: str, at: int, code: str, value: float, match: str
) -> None:
    refuse(poke(small, tensor, at, code, value), match, RefstackError)


def test_a_packed_weight_that_ends_in_a_long_step(small: Path) -> None:
    """The last step's entry becomes 255 zeros and no entry; pointers and values are made to fit."""
    header, _, _ = unpack(small)
    last = header["b.weight.steps"]["shape"][0] - 1
    file = poke(small, "b.weight.steps", last, "B", 255)
    refuse(poke(file, "b.weight.indptr", 4, "i", last), "csr16.steps: the last one is 255, which has no entry behind")


def test_a_packed_weight_with_a_value_too_many(small: Path) -> None:
    header, _, data = unpack(small)
    steps, values = header["b.weight.steps"], header["b.weight.values"]
    steps["shape"][0] -= 1
    steps["data_offsets"][1] -= 1
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] > steps["data_offsets"][0]:
            entry["data_offsets"] = [each - 1 for each in entry["data_offsets"]]
    end = steps["data_offsets"][1]
    file = pack(small, header, data[:end] + data[end + 1 :])
    refuse(file, "csr16.indptr: must run from 0 to the .* stored entries")
    refuse(poke(file, "b.weight.indptr", 4, "i", values["shape"][0] - 1), "csr: .* indices but .* values")


def test_a_truncated_packed_file(small: Path) -> None:
    content, cut = small.read_bytes(), small.with_name("cut")
    for size in range(0, len(content), 3):
        cut.write_bytes(content[:size])
        refuse(cut, "truncated|the file has")


def test_an_empty_block_of_any_size_is_refused(small: Path) -> None:
    """No bytes, so the header may claim any shape: a block's sides are bounded before anything is made of them."""
    op = ops.Conv2d((1, 1), out_channels=4)
    weight = Bsr(np.zeros(2, np.int32), np.zeros(0, np.int32), np.zeros((0, 4, 1), np.float32), 4, 1)
    for dtype in ("float32", "float16"):
        checkpoint.save(Graph("empty", (1, 3, 3), (Node("b", op, (INPUT,), weight),)), small, dtype)
        assert not checkpoint.load(small)["b"].weight.decode().any()
        header, _, data = unpack(small)
        header["b.weight.values"]["shape"] = [0, 2**31, 2**31]
        refuse(pack(small, header, data), "tensor 'b.weight.values': shape .0, 2147483648, 2147483648. is too large")
        header["b.weight.values"]["shape"] = [0, 2**15, 2**15]
        refuse(pack(small, header, data), "bsr: blocks of 32768 x 32768, wanted sides of 1 to 256")
