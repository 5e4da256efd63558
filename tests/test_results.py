"""Result files are read whole, old ones too, and hostile ones are refused; intervals are as wide as they say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from benching import Notes
from results import ENV, dumped, journal, row, times

from refstack.benchmark.journal import encode
from refstack.benchmark.rows import SCHEMA_VERSION
from refstack.errors import FormatError, UsageError
from refstack.results import latency, latest, load, machine, ratio
from refstack.results.intervals import blocks


def test_every_form_gives_the_same_rows_and_keeps_unknown_fields(tmp_path: Path) -> None:
    rows = [row(seed=i, from_the_future={"x": [1, None]}) for i in range(3)]
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(each) + "\n" for each in rows))
    for path in (journal(tmp_path / "j.jsonl", rows), dumped(tmp_path / "a.json", rows), lines):
        assert load(path) == rows, path
    assert load([lines, str(lines)]) == rows + rows


def test_damaged_lines_are_counted_and_told(tmp_path: Path) -> None:
    first, second, third = (encode(row(seed=i)) for i in range(3))
    path, notes = tmp_path / "j.jsonl", Notes()
    path.write_bytes(first + second.replace(b'"batch":1', b'"batch":2') + third[: len(third) // 2])
    assert [each["cell_id"] for each in load(path, notes)] == [row()["cell_id"]]
    assert notes.said == [f"{path}: 2 damaged lines left out"]
    path.write_bytes(first[:-20])
    with pytest.raises(UsageError, match="holds no whole row; `refstack bench"):
        load(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"# notes\n", "line 1: not a row of refstack bench"),
        (b"\x80\x04\x95pickled", "line 1: not a row of refstack bench"),
        (b'{"a": 1}\n', "line 1: schema_version is None"),
        (b'[{"schema_version": true}]', "row 1: schema_version is True"),
        (b'[{"schema_version": 99}]', f"row 1: schema 99, this refstack reads up to {SCHEMA_VERSION}; update refstack"),
        (b"[1]", "row 1: got int, wanted an object"),
        (b"[NaN]", "NaN is not JSON, bench writes null"),
        (b"[1e999]", "1e999 is more than a number can be"),
        (b'[{"a": 1, "a": 2}]', "a name stands twice in one object"),
        (b"[" * 100_000, "nested too deep"),
        (b"[\xff]", "not strict JSON"),
        (b"[" + b"9" * 5000 + b"]", "not strict JSON"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=told):
        load(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match="is not a file"):
            load(path)
    with pytest.raises(UsageError, match="no such file, wanted what `refstack bench` wrote"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="no result file named"):
        load([])


def test_older_schemas_are_read_as_this_one(tmp_path: Path) -> None:
    new = {name: value for name, value in row(technique="weight").items() if name not in ("point", "running_rss_bytes")}
    first = {name: value for name, value in new.items() if name != "stored_as"} | {"schema_version": 1}
    dense, small, later = load(
        dumped(tmp_path / "a.json", [first | {"technique": "dense"}, first, new | {"schema_version": 2, "point": "p"}])
    )
    assert (dense["weights"], small["weights"], later["weights"]) == ("trained", "one-shot", "trained")
    assert (small["stored_as"], small["point"], later["point"]) == ("float32", None, "p")
    for old, version in ((dense, 1), (small, 1), (later, 2)):
        assert (old["schema_version"], old["upgraded_from"]) == (SCHEMA_VERSION, version)
        assert old["peak_rss_bytes"] is old["running_rss_bytes"] is None
        assert old["peak_rss_bytes_before_schema_3"] == new["peak_rss_bytes"]


def test_latest_is_the_last_that_is_ok() -> None:
    first, again, failed = row(seed=1), row(seed=2), row(seed=3, ms=None)
    other = row(seed=4, env=ENV | {"host": "there", "key": "other"})
    assert latest([first, failed]) == [first]
    rebuilt = row(seed=5, env=ENV | {"key": "build"})
    assert latest([failed, first, other, again, failed]) == [again, other]
    assert latest([first, rebuilt]) == [rebuilt]
    assert latest([first, rebuilt, again], builds=True) == [again, rebuilt]
    assert machine(first) == machine(row(env=ENV | {"key": "build", "code": "new"})) != machine(other)


def test_blocks_are_the_rows_own_or_cut_by_time() -> None:
    timed = row(ms=2.0)
    assert [len(block) for block in blocks(timed)] == timed["rounds"] == [20] * 10
    del timed["rounds"]
    assert 8 <= len(blocks(timed)) <= 12
    assert sum(map(len, blocks(timed))) == 200
    assert len(blocks(timed | {"quick": True})) > 30
    assert latency(row(ms=None)) is latency(row(**times(2.0, rounds=2))) is ratio(row(), row(ms=None)) is None


def test_intervals_are_of_blocks_not_of_runs() -> None:
    """The planted fault: runs drawn one by one would make an interval a tenth as wide, that misses the truth."""
    rng, missed, narrow = np.random.default_rng(0), 0, 0
    for seed in range(40):
        slow = np.repeat(rng.normal(1, 0.05, 10), 50)
        samples = [int(ns) for ns in 1e6 * slow * rng.normal(1, 0.002, 500)]
        found = latency(row(samples_ns=samples, rounds=[50] * 10), seed=seed)
        single = latency(row(samples_ns=samples, rounds=[1] * 500), seed=seed)
        assert found is not None
        assert single is not None
        assert found.low <= found.mid <= found.high
        assert found.mid == pytest.approx(np.median(samples) / 1e6)
        missed += not found.low <= 1 <= found.high
        narrow += not single.low <= 1 <= single.high
    assert missed <= 6
    assert narrow >= 20


def test_ratios_of_one_run_are_of_the_same_rounds() -> None:
    """A slow round falls on both rows: in the ratio it is no uncertainty."""
    slow = np.repeat([1, 1.5, 1, 1, 2, 1.2, 1, 1.4, 1, 1], 20)
    base = row(samples_ns=[int(ns) for ns in 1e6 * slow], rounds=[20] * 10)
    new = row(technique="int8", samples_ns=[int(ns) for ns in 2e6 * slow], rounds=[20] * 10)
    together, apart = ratio(new, base), ratio(new | {"env": ENV | {"measured_utc": "later"}}, base)
    assert together is not None
    assert apart is not None
    assert (together.low, together.mid, together.high) == pytest.approx((2, 2, 2))
    assert apart.low < 1.9 < 2.1 < apart.high
    assert ratio(new, base) == together
