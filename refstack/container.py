"""The file under a checkpoint: safetensors, proved sound from its header before a tensor is touched.

    u64 header bytes | JSON header | tensors, end to end, no holes      (little endian)

Source      safetensors, huggingface.co/docs/safetensors. The library accepts tensors named twice, unknown fields, any
            number of axes and dtypes that NumPy lacks; those are refused here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from refstack.errors import FormatError, ResourceError, UsageError
from refstack.formats import Array

KEY = "refstack"
DTYPES = {
    name: np.dtype(code)
    for name, code in (
        ("F64", "<f8"),
        ("F32", "<f4"),
        ("F16", "<f2"),
        ("I64", "<i8"),
        ("I32", "<i4"),
        ("I8", "i1"),
        ("U8", "u1"),
    )
}  # what refstack writes

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
MAX_AXES = 8

WANTED = "wanted a refstack checkpoint (.safetensors), as refstack.checkpoint.save writes it"
FOREIGN = {
    b"PK\x03\x04": "a zip archive (.pt, .pth, .npz)",
    b"\x80": "a pickle",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}


def write(path: Path, tensors: Mapping[str, Array], text: str) -> None:
    """The file appears under its name in one step, complete and on disk: temporary beside it, fsync, rename.

    Raises      ResourceError no space left (an older file stays); UsageError the place cannot be written
    """
    write_bytes(path, safetensors.numpy.save(dict(tensors), {KEY: text}))


def write_bytes(path: Path, content: bytes) -> None:
    """Any file in the same way."""
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kind = ResourceError if error.errno in NO_SPACE else UsageError
        what = f"{path}: cannot write {len(content)} bytes: {error.strerror}"
        raise kind(f"{what}; free space or name another place") from None
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; never there if the folder is not
            temporary.unlink()


def read(path: Path) -> tuple[str, dict[str, Array]]:
    """(text under the refstack key, tensors by name).

    Raises      UsageError the file cannot be opened; FormatError it is not what safetensors and the limits allow
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"not a regular file; {WANTED}")
            start = file.read(8)
            length, first = int.from_bytes(start, "little"), file.read(1)
            if len(start) < 8 or first != b"{":
                kinds = [kind for magic, kind in FOREIGN.items() if start.startswith(magic)]
                what = f"looks like {kinds[0]}, which refstack does not read" if kinds else "no header at byte 8"
                raise FormatError(f"{what} (the file has {status.st_size} bytes); {WANTED}")
            if not 2 <= length <= min(MAX_HEADER_BYTES, status.st_size - 8):
                raise FormatError(
                    f"byte 0: header of {length} bytes in a file of {status.st_size} (at most {MAX_HEADER_BYTES} are "
                    f"read): truncated or not a checkpoint; {WANTED}"
                )
            header = first + file.read(length - 1)
            text, found = _check_header(header, status.st_size - 8 - length)
            return text, {name: _tensor(file, name, *each) for name, each in found.items()}
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise FormatError(f"is a folder; {WANTED}") from None
        raise UsageError(f"{path}: cannot be read: {error.strerror}; {WANTED}") from None


def _tensor(file: FileIO, name: str, dtype: str, shape: list[int]) -> Array:
    """The next tensor of the file, read into its own memory: there is never a second copy of the whole."""
    array = np.empty(shape, DTYPES[dtype])
    room = array.reshape(-1).view(np.uint8).data
    while room:
        got = file.readinto(room)
        if not got:
            raise FormatError(f"tensor {name!r:.80}: the file ends inside; is another program writing to it?")
        room = room[got:]
    return array


def _check_header(header: bytes, data_bytes: int) -> tuple[str, dict[str, tuple[str, list[int]]]]:
    """(structure's JSON text, dtype and shape of every tensor in the file's order); the tensors tile the data exactly.

    Raises      FormatError
    """
    try:
        entries = parse(header.decode(), "header at byte 8")
    except UnicodeDecodeError as error:
        raise FormatError(f"header at byte 8: not UTF-8 at byte {8 + error.start}; {WANTED}") from None
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS + 1:
        raise FormatError(f"header at byte 8: wanted an object of at most {MAX_TENSORS} tensors")
    metadata = entries.pop("__metadata__", None)
    spans = sorted((*_span(name, entry), name) for name, entry in entries.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            kind = "leaves a hole" if start > end else "overlaps its neighbour"
            raise FormatError(f"tensor {name!r:.80}: starts at data byte {start}, wanted {end}: {kind}")
        end = stop
    if end != data_bytes:
        kind = "truncated" if end > data_bytes else "trailing bytes"
        raise FormatError(f"{kind}: the tensors take {end} bytes, {data_bytes} follow the header; copy the file again")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise FormatError(f"the metadata key {KEY!r} with the network's structure is missing; {WANTED}")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"header at byte 8: metadata must be text by name; {WANTED}")
    return metadata[KEY], {name: (entries[name]["dtype"], entries[name]["shape"]) for _, _, name in spans}


def _span(name: str, entry: Any) -> tuple[int, int]:
    """(start, stop) of a tensor, whose size is what its shape and dtype say."""
    where = f"tensor {name!r:.80}"
    keys(entry, {"dtype", "shape", "data_offsets"}, where)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if entry["dtype"] not in list(DTYPES):
        raise FormatError(f"{where}: dtype {entry['dtype']!r:.40}, wanted one of {', '.join(DTYPES)}")
    for what, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 2**63 for v in values):
            raise FormatError(f"{where}: {what} {values!r:.60}, wanted a list of sizes")
    if len(shape) > MAX_AXES or len(offsets) != 2:
        raise FormatError(f"{where}: {len(shape)} axes and {len(offsets)} offsets, wanted at most {MAX_AXES} and 2")
    if math.prod(max(1, axis) for axis in shape) >= 2**40:  # NumPy refuses such strides even if an axis of 0 is there
        raise FormatError(f"{where}: shape {shape!r:.60} is too large")
    size = math.prod(shape) * DTYPES[entry["dtype"]].itemsize
    if offsets[1] - offsets[0] != size:
        raise FormatError(f"{where}: {offsets[1] - offsets[0]} bytes stored, {entry['dtype']} {shape} takes {size}")
    return offsets[0], offsets[1]


def parse(text: str, where: str) -> Any:
    """Strict JSON: no name twice, no NaN or infinity, no nesting beyond Python's limit."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise FormatError(f"{where}: {name!r:.80} stands there twice")
            found[name] = value
        return found

    def finite(number: str) -> float:
        if math.isinf(float(number)):
            raise FormatError(f"{where}: the number {number:.40} is too large")
        return float(number)

    def refuse(constant: str) -> None:
        raise FormatError(f"{where}: {constant} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise FormatError(f"{where}: not JSON at character {error.pos}: {error.msg}; {WANTED}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not readable JSON: {error}") from None


def keys(value: Any, wanted: set[str], where: str) -> None:
    """FormatError unless `value` is an object with exactly these keys."""
    if not isinstance(value, dict) or set(value) != wanted:
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise FormatError(f"{where}: has {str(got)[:120]}, wanted exactly the keys {sorted(wanted)}")
