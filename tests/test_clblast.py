"""The baselines clblast and clblast_tuned: what CLBlast is told, the search and what is kept of it, the rows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refstack as rs
from refstack.backends import BASELINES, backend, clblast, clblast_tuned, packing
from refstack.backends.clblast import library, search
from refstack.backends.clblast.products import COLUMN_MAJOR, LIMIT, TRANSPOSED, Product, Setting, product, sizes
from refstack.benchmark import request
from refstack.benchmark.report import Report
from refstack.errors import BackendUnavailable, UsageError
from refstack.formats import Array
from refstack.kernels import parse_case
from refstack.verification.cases import parse_problem
from refstack.verification.examiner import in_process

ABSENT = clblast.unavailable()
needs_library = pytest.mark.skipif(ABSENT is not None and not os.environ.get("CI"), reason=f"clblast: {ABSENT}")


def blas(told: Product, a: Array, b: Array) -> Array:
    """What BLAS is defined to write for such a call: the numbers of c, as they lie in memory."""

    def matrix(buffer: Array, ld: int, rows: int, columns: int) -> Array:
        lines, length = (columns, rows) if told.layout == COLUMN_MAJOR else (rows, columns)
        held = np.stack([buffer[i * ld : i * ld + length] for i in range(lines)])
        return held.T if told.layout == COLUMN_MAJOR else held

    def operand(buffer: Array, ld: int, transpose: int, rows: int, columns: int) -> Array:
        if transpose == TRANSPOSED:
            return matrix(buffer, ld, columns, rows).T
        return matrix(buffer, ld, rows, columns)

    (ta, tb), (lda, ldb, ldc) = told.transpose, told.ld
    c = operand(a, lda, ta, told.m, told.k) @ operand(b, ldb, tb, told.k, told.n)
    assert ldc == (told.m if told.layout == COLUMN_MAJOR else told.n)
    return np.ravel(c, order="F" if told.layout == COLUMN_MAJOR else "C")


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("word", ["conv2d.dense:n1c5h4w3_k7r3s3_st1pd1g1", "linear.dense:n3c5_k7"])
def test_both_ways_to_name_a_product(word: str, first: bool) -> None:
    """Columns and weights as they are packed give y as it is laid out, (k, p*q) or (n, k)."""
    case = parse_case(word)
    pixels, filters, depth = sizes(case)
    rng = np.random.default_rng(0)
    columns, w = rng.integers(-9, 9, (depth, pixels)), rng.integers(-9, 9, (depth, filters))
    linear = word.startswith("linear")
    x = np.ravel(columns.T if linear else columns)
    wanted = np.ravel((columns.T @ w) if linear else (w.T @ columns))
    operands = (np.ravel(w), x) if first or linear else (x, np.ravel(w))
    assert np.array_equal(blas(product(case, first), *operands), wanted)


def test_baselines_are_for_those_who_name_them() -> None:
    usable = request.usable_backends(None, Report())
    assert not set(BASELINES) & set(usable)
    with pytest.raises(UsageError, match=r"unknown backend 'clblas': did you mean 'clblast'\?"):
        request.usable_backends(["clblas"], Report())


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The library is looked for anew, before and after."""
    library.library.cache_clear()
    yield
    library.library.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.skipif(clblast.opencl.unavailable() is not None, reason=str(clblast.opencl.unavailable()))
def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FILE", "libnowhere.so.1")
    for name in BASELINES:
        with pytest.raises(
            BackendUnavailable, match=rf"{name}: libnowhere.so.1 is not here .* apt install libclblast1"
        ):
            rs.plan(rs.load("vgg16"), backends=(name,))


SMALL, LARGE = (4, 8, 16), (64, 64, 64)
TILES, OTHER = (1,) * 16, (2,) * 16


def times(**changed: float) -> search.Times:
    """us of two candidates of each kernel: Xgemm is for large products, XgemmDirect for small ones."""
    own = {SMALL: 50.0, LARGE: 900.0}
    return {
        ("Xgemm", search.OWN, False): own,
        ("Xgemm", TILES, False): {SMALL: 40.0, LARGE: changed.get("large", 100.0)},
        ("Xgemm", TILES, True): {SMALL: 40.0, LARGE: 101.0},
        ("XgemmDirect", search.OWN, False): own,
        ("XgemmDirect", search.OWN, True): {SMALL: changed.get("small", 5.0), LARGE: 500.0},
        ("XgemmDirect", OTHER[:10], False): {LARGE: 1.0},  # SMALL came out wrong: it is not chosen
    }


def test_the_best_of_both_kernels() -> None:
    found = search.best(times(), {"net": [SMALL, LARGE]})
    limit = found.parameters["GemmRoutine"][LIMIT]
    assert math.prod(SMALL) < limit**3 <= math.prod(LARGE)
    assert set(found.parameters) == {"Xgemm", "GemmRoutine"}  # the library's own XgemmDirect is the best
    assert tuple(found.parameters["Xgemm"].values()) == TILES
    assert found.filters_first == {SMALL}
    found = search.best(times(large=102.0), {"net": [SMALL, LARGE]})
    assert found.filters_first == {SMALL, LARGE}
    found = search.best(times(small=60.0), {"net": [SMALL, LARGE]})
    assert found.parameters["GemmRoutine"][LIMIT] <= 8


def test_no_candidate_is_right() -> None:
    with pytest.raises(BackendUnavailable, match="no parameters give right numbers"):
        search.best({("Xgemm", search.OWN, False): {LARGE: 1.0}}, {"net": [SMALL, LARGE]})


def test_every_candidate_is_whole() -> None:
    """A value for every parameter, and tiles that CLBlast can share out."""
    for pair in (pair for listed in search.CANDIDATES.values() for pair in listed):
        named = search.named(pair, 0)
        x, d = named["Xgemm"], named["XgemmDirect"]
        assert x["MWG"] % (x["MDIMC"] * x["VWM"]) == x["NWG"] % (x["NDIMC"] * x["VWN"]) == x["KWG"] % x["KWI"] == 0
        assert x["MWG"] % (x["MDIMA"] * x["VWM"]) == x["NWG"] % (x["NDIMB"] * x["VWN"]) == 0
        assert d["WGD"] % d["KWID"] == d["WGD"] % (d["MDIMCD"] * d["VWMD"]) == d["WGD"] % (d["NDIMCD"] * d["VWND"]) == 0


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A setting in a cache of its own, as a search would leave it."""
    monkeypatch.setenv("REFSTACK_CACHE_DIR", str(tmp_path))
    found = Setting(search.named((search.OWN, search.OWN), 0), frozenset({SMALL}))
    clblast_tuned.keep(found)
    return found


@needs_library
def test_what_was_found_is_kept(kept: Setting) -> None:
    assert clblast_tuned.read() == clblast_tuned.setting() == kept
    clblast_tuned.prepare(lambda text: pytest.fail(f"searched again: {text}"))
    before = clblast_tuned.build_id()
    clblast_tuned.keep(Setting(kept.parameters))
    assert clblast_tuned.build_id() != before  # what was verified with other parameters does not count


@needs_library
@pytest.mark.parametrize("damage", ['{"parameters"', '"x"', "kernel", "value", "negative"])
def test_a_damaged_file_counts_as_none(kept: Setting, damage: str) -> None:
    content = {"parameters": {"GemmRoutine": {LIMIT: 0}}, "filters_first": []}
    wrong = {
        "kernel": {"Xaxpy": {"WGS": 64}},
        "value": {"GemmRoutine": {LIMIT: "0;"}},
        "negative": {"GemmRoutine": {LIMIT: -1}},
    }
    path = clblast_tuned._path()
    path.write_text(json.dumps(content))
    assert clblast_tuned.read() is not None
    path.write_text(json.dumps(content | {"parameters": wrong[damage]}) if damage in wrong else damage)
    assert clblast_tuned.read() is None
    with pytest.raises(BackendUnavailable, match=r"no parameters were searched for .* refstack bench .*clblast_tuned"):
        rs.plan(rs.load("vgg16"), backends=("clblast_tuned",))


PROBLEMS = (
    "conv2d.dense:n2c3h5w7_k5r3s3_st2,1pd1,0,1,2g1_relu@normal",
    "conv2d.dense:n1c9h4w4_k8r1s1_st1pd0g1_relu6@special",
    "linear.dense:n2c33_k17@integer",
)


@needs_library
def test_rows_on_the_device(kept: Setting) -> None:
    """Both baselines are right, wrong weights are seen, and parameters that are in use are not mixed up."""

    def findings(name: str, **changed: Any) -> list[str]:
        found = [parse_problem(word, 1) for word in PROBLEMS]
        listed = {row.op: replace(row, **changed) for row in backend(name).kernels() if row.variant == "gemm"}
        return [in_process(listed[each.case.op.name], each, (1,)).reason for each in found]

    assert findings("clblast") == [""] * len(PROBLEMS)
    assert "got" in findings("clblast", pack=packing.matrix)[0]
    assert findings("clblast_tuned") == [""] * len(PROBLEMS)
    assert "other parameters are in use" in findings("clblast")[0]


@needs_library
def test_what_is_no_product_is_opencls() -> None:
    """A row for each kind of layer, none of opencl's for dense products."""
    names = [row.name for row in clblast.kernels()]
    assert names[:2] == ["conv2d.dense.clblast.gemm", "linear.dense.clblast.gemm"]
    products = [row for row in clblast.kernels() if row.op in ("conv2d", "linear")]
    assert {row.format for row in products} == {"dense"}
    case = parse_case("conv2d.dense:n1c16h8w8_k16r3s3_st1pd1g1")
    assert [row.name for row in products if row.op == "conv2d" and row.refusal(case) is None] == names[:1]
    assert any(row.refusal(parse_case("conv2d.dense:n1c16h8w8_k16r3s3_st1pd1g16")) is None for row in products)
