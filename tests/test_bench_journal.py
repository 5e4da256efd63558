"""The journal survives what happens to files, and never takes another file for itself."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from benching import strict_loads
from files import small_files

from refstack.benchmark.journal import Journal, decode, encode
from refstack.benchmark.rows import SCHEMA_VERSION, strict
from refstack.errors import FormatError, ResourceError, UsageError


def test_journal_gives_rows_back(tmp_path: Path) -> None:
    rows = [{"cell_id": str(i), "status": "ok", "x": [1.5, None, "é\n"]} for i in range(3)]
    with Journal(tmp_path / "new" / "j.jsonl") as journal:
        written = [journal.append(row) for row in rows]
    with Journal(tmp_path / "new" / "j.jsonl") as journal:
        assert journal.rows == written == [{"schema_version": SCHEMA_VERSION, **row} for row in rows]
        assert journal.damaged == 0
    for line in (tmp_path / "new" / "j.jsonl").read_text().splitlines():
        assert strict_loads(line)["crc"]


def test_a_line_cut_anywhere_is_ignored_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first, second = encode({"cell_id": "1"}), encode({"cell_id": "2", "x": 1.25})
    for cut in range(1, len(second)):
        path.write_bytes(first + second[:cut])
        with Journal(path) as journal:
            assert [row["cell_id"] for row in journal.rows] == ["1"], cut
            journal.append({"cell_id": "3"})
        content = path.read_bytes()
        assert content == first + encode({"cell_id": "3"}), cut


def test_a_journal_that_is_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for cut in (1, 10, 30):
        path.write_bytes(encode({"cell_id": "1"})[:cut])
        with Journal(path) as journal:
            assert journal.rows == []
        assert path.read_bytes() == b""


def test_an_altered_line_is_not_believed_but_kept(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    lines = [encode({"cell_id": str(i), "ms": 1.25}) for i in range(3)]
    altered = lines[1].replace(b"1.25", b"0.25")
    assert altered != lines[1]
    assert decode(lines[1]) is not None
    assert decode(altered) is None
    path.write_bytes(lines[0] + altered + lines[2])
    with Journal(path) as journal:
        assert [row["cell_id"] for row in journal.rows] == ["0", "2"]
        assert journal.damaged == 1
    assert path.read_bytes() == lines[0] + altered + lines[2]


@pytest.mark.parametrize("content", [b"# notes\n", b"# notes", b'{"a": 1}\n', b"\x00\x01"])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.md"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a journal of refstack bench"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(encode({"schema_version": SCHEMA_VERSION + 1, "cell_id": "1"}))
    told = f"rows of schema {SCHEMA_VERSION + 1}, this refstack reads {SCHEMA_VERSION}; update refstack"
    with pytest.raises(FormatError, match=told):
        Journal(path)


def test_two_runs_cannot_write_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl"), pytest.raises(UsageError, match="another run writes to this journal"):
        Journal(tmp_path / "j.jsonl")
    with Journal(tmp_path / "j.jsonl"):
        pass


def test_a_journal_in_an_impossible_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Journal(tmp_path / "file" / "j.jsonl")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UsageError, match="is not a file; name another --output"):
            Journal(path)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append({"cell_id": "1"})
        before = path.read_bytes()
        with small_files(len(before) + 20), pytest.raises(ResourceError, match="rows written so far are kept"):
            journal.append({"cell_id": "2", "text": "x" * 100})
        assert path.read_bytes() == before
        assert len(journal.rows) == 1
        journal.append({"cell_id": "3"})
    with Journal(path) as journal:
        assert [row["cell_id"] for row in journal.rows] == ["1", "3"]


def test_json_never_holds_nan() -> None:
    nested = {"a": [math.nan, (math.inf, 1.0)], "b": {"c": -math.inf}}
    assert strict(nested) == {"a": [None, [None, 1.0]], "b": {"c": None}}
    assert strict_loads(encode(nested).decode())["b"] == {"c": None}
