"""The schema of rows: bench keeps it; JSON Schema's own validator and refstack's reader agree on what breaks it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from benching import FAST, tiny
from results import dumped, row

from refstack import checkpoint
from refstack.benchmark import bench
from refstack.benchmark.rows import SCHEMA_VERSION, schema, violations
from refstack.errors import FormatError
from refstack.results import load


def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install '.[test]'")
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def test_rows_of_bench_keep_the_schema_and_name_every_field(tmp_path: Path) -> None:
    checkpoint.save(tiny(), tmp_path / "tiny.safetensors")
    rows = bench(
        str(tmp_path / "tiny.safetensors"), ["dense", "int8"], ["numpy"], 1, policy=FAST, output=tmp_path / "j.jsonl"
    )
    assert sorted(load(tmp_path / "j.jsonl"), key=lambda each: each["technique"]) == rows
    assert [each["status"] for each in rows] == ["ok", "failed"]
    for each in rows:
        assert not list(violations(each))
        assert not list(validator().iter_errors(each))
        assert set(each) <= set(schema()["properties"]), "a field without a description"
        assert sum(each["rounds"]) == len(each["samples_ns"])
    assert len(rows[0]["rounds"]) == FAST.rounds


WRONG = {
    "threads": [0, 1.5, "1", True, None], "model": [None, 7], "status": ["fine", None], "quick": [0, "yes"],
    "samples_ns": [[1, 0], [1, "2"], [None], {}, None], "latency_p50_ms": [0, -1.0, "1"], "top1": [101, -1],
    "kernels": [{"a": "b"}, []], "weights": ["some"], "rounds": [[0], [1.5]], "schema_version": [SCHEMA_VERSION + 1],
    "env": [None, [], {"key": 1}, {"roofs": [{"flops": 0}]}, {"load_average": ["a"]}],
}  # fmt: skip


def test_both_readers_refuse_the_same(tmp_path: Path) -> None:
    """Every field taken away and set wrong: own checks and JSON Schema agree, and `load` names the field."""
    judge = validator()
    assert judge.is_valid(row())
    assert not list(violations(row()))
    for name in row():
        lacking = {key: value for key, value in row().items() if key != name}
        assert judge.is_valid(lacking) == (not list(violations(lacking))) == (name not in schema()["required"]), name
    for name, values in WRONG.items():
        for value in values:
            wrong = copy.deepcopy(row()) | {name: value}
            assert not judge.is_valid(wrong), (name, value)
            assert any(problem.startswith(name) for problem in violations(wrong)), (name, value)
            if name != "schema_version":
                with pytest.raises(FormatError, match=rf"row 1: {name}.*no row of refstack bench"):
                    load(dumped(tmp_path / "a.json", [wrong]))
    assert list(violations(row() | {"top1": float("nan")}))


def test_every_field_is_described() -> None:
    for name, field in schema()["properties"].items():
        assert field["description"], name
    assert schema()["properties"]["schema_version"]["maximum"] == SCHEMA_VERSION
