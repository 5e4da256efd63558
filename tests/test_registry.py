"""The registry: layouts by their definition, words that name cases, and the choice of a row with its reasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refstack import ops
from refstack.backends import BACKENDS, backend, rows
from refstack.errors import BackendUnavailable, NoKernelError, RefstackError, UsageError
from refstack.formats import FORMATS
from refstack.graph import Node
from refstack.kernels import (
    Case,
    Kernel,
    Reorder,
    candidates,
    case_of,
    from_nchw,
    layout_block,
    layout_shape,
    parse_case,
    select,
    to_nchw,
)
from refstack.ops import OPS
from refstack.verification.cases import Problem, Seeded
from refstack.verification.fills import inputs_of, node_of
from refstack.verification.harness import draw, real_case

USABLE = [name for name in BACKENDS if not backend(name).unavailable()]
sizes = st.integers(1, 5)


@given(st.tuples(sizes, st.integers(1, 20), sizes, sizes), st.sampled_from((1, 3, 8, 16)))
def test_layouts(shape: tuple[int, int, int, int], block: int) -> None:
    """Every element where the definition puts it, zeros where it puts none, and back again."""
    n, c, h, w = shape
    x = np.arange(1, n * c * h * w + 1, dtype=np.float32).reshape(shape)
    inner, outer, beside = (from_nchw(x, layout) for layout in ("nhwc", f"nchw{block}c", f"nchw{block}n"))
    assert beside.shape == layout_shape(f"nchw{block}n", shape) == ((n + block - 1) // block, c, h, w, block)
    for i in range(beside.shape[0] * block):
        np.testing.assert_array_equal(beside[i // block, ..., i % block], x[i] if i < n else np.zeros((c, h, w)))
    np.testing.assert_array_equal(to_nchw(beside, f"nchw{block}n", shape), x)
    assert inner.shape == layout_shape("nhwc", shape) == (n, h, w, c)
    assert outer.shape == layout_shape(f"nchw{block}c", shape) == (n, (c + block - 1) // block, h, w, block)
    for i in range(n):
        for channel in range(outer.shape[1] * block):
            plane = x[i, channel] if channel < c else np.zeros((h, w))
            np.testing.assert_array_equal(outer[i, channel // block, :, :, channel % block], plane)
            if channel < c:
                np.testing.assert_array_equal(inner[i, :, :, channel], plane)
    np.testing.assert_array_equal(to_nchw(inner, "nhwc", shape), x)
    np.testing.assert_array_equal(to_nchw(outer, f"nchw{block}c", shape), x)
    assert from_nchw(x, "nchw") is x
    assert to_nchw(x, "nchw", shape) is x


def test_vectors_are_nchw() -> None:
    assert layout_shape("nchw", (3, 4)) == (3, 4)


@pytest.mark.parametrize("layout", ["nchwc", "chwn", "nchw16", "16c", "nchwn", ""])
def test_unknown_layout(layout: str) -> None:
    with pytest.raises(
        UsageError, match=f"unknown layout '{layout}', wanted nchw, nhwc, nchw<block>c, nchw<block>n or nchw<block>p"
    ):
        layout_block(layout)


IMAGE = (1, 64, 16, 16)
WORDS = {
    "conv2d.csr:n1c64h16w16_k128r3s3_st1pd1g1_d0.10": Case(
        ops.Conv2d((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 128), "csr", (IMAGE,), 0.1
    ),
    "conv2d.dense:n1c64h16w16_k64r3s1_st2,1pd1,0,1,0dl2,1g64_relu6_nobias": Case(
        ops.Conv2d((3, 1), (2, 1), (1, 0, 1, 0), (2, 1), 64, 64, "relu6"), "dense", (IMAGE,), bias=False
    ),
    "conv2d.int8:n1c64h16w16_k1r1s1_st1pd0g1_to-int8": Case(ops.Conv2d((1, 1)), "int8", (IMAGE,), output="int8"),
    "linear.ternary:n1c512_k10_relu": Case(ops.Linear(10, "relu"), "ternary", ((1, 512),)),
    "avgpool.float32:n1c64h16w16_r2s2_st2pd0_includepad": Case(
        ops.AvgPool2d((2, 2), (2, 2), count_include_pad=True), "float32", (IMAGE,)
    ),
    "maxpool.int8:n1c64h16w16_r3s3_st2pd1_to-int8": Case(
        ops.MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)), "int8", (IMAGE,), output="int8"
    ),
    "concat.float32:n1c64h16w16xn1c3h16w16": Case(ops.Concat(), "float32", (IMAGE, (1, 3, 16, 16))),
    "reorder.float32:n1c64h16w16_nhwc-nchw16c": Case(Reorder("nhwc", "nchw16c"), "float32", (IMAGE,)),
    "reorder.float32:n1c64h16w16_nchw16c-nchw16n": Case(Reorder("nchw16c", "nchw16n"), "float32", (IMAGE,)),
    "reorder.float32:n1c64h16w16_nchw-nchw16p": Case(Reorder("nchw", "nchw16p"), "float32", (IMAGE,)),
    "softmax.float32:n2c10": Case(ops.Softmax(), "float32", ((2, 10),)),
}


@pytest.mark.parametrize("word", WORDS)
def test_word(word: str) -> None:
    assert WORDS[word].word == word


def test_words_tell_drawn_cases_apart() -> None:
    """Different ops or shapes, different words; activations, padding and dilation included."""
    row = next(row for row in backend("numpy").kernels() if row.name == "conv2d.dense.numpy.reference")
    drawn = [draw(row, Seeded(seed)) for seed in range(300)]
    cases = {(p.case.op, p.case.inputs, p.case.bias): p.case.word for p in drawn if p}
    assert len(cases) > 200
    assert len(set(cases.values())) == len(cases)


def test_case_of_a_node() -> None:
    """Formats of weights, dtypes without them; density counts for formats with zeros that are not multiplied."""
    for seed in range(40):
        for row in backend("numpy").kernels():
            problem = draw(row, Seeded(seed))
            assert problem is not None
            _, case = real_case(problem)
            assert (case.op, case.inputs, case.format) == (problem.case.op, problem.case.inputs, row.format)
            assert case.output == problem.case.output
            assert case.density == 1 or case.format in ("csr", "bsr", "ternary")


def test_case_of_sparse_node() -> None:
    weight = FORMATS["csr"].encode(np.array([[1, 0, 0, 2]]))
    case = case_of(Node("fc", ops.Linear(1), ("x",), weight), ((1, 4),), np.float32, np.float32)
    assert case == Case(ops.Linear(1), "csr", ((1, 4),), 0.5, bias=False)


def three_by_three(case: Case) -> str | None:
    return None if case.op.kernel == (3, 3) else f"kernel is {case.op.kernel}, this kernel needs (3, 3)"


def unstrided(case: Case) -> str | None:
    return None if case.op.stride == (1, 1) else "stride is not 1"


FAST = Kernel("conv2d", "csr", "fake", "fast", None, (three_by_three, unstrided))
SLOW = Kernel("conv2d", "csr", "fake", "slow", None)
OTHER = Kernel("conv2d", "dense", "fake", "other", None)
CASE = Case(ops.Conv2d((3, 3)), "csr", ((1, 1, 8, 8),))


def with_op(case: Case, **changes: object) -> Case:
    return replace(case, op=replace(case.op, **changes))


def test_select_takes_the_first_row_that_can() -> None:
    assert select(CASE, (OTHER, FAST, SLOW)).kernel is FAST
    assert select(CASE, (SLOW, FAST)).kernel is SLOW, "rows stand in order of preference"
    choice = select(with_op(CASE, kernel=(1, 1), stride=(2, 2)), (OTHER, FAST, SLOW))
    assert choice.kernel is SLOW
    _, refused = candidates(with_op(CASE, kernel=(1, 1), stride=(2, 2)), (OTHER, FAST, SLOW))
    assert refused == [("conv2d.csr.fake.fast", "kernel is (1, 1), this kernel needs (3, 3)")]
    able, refused = candidates(with_op(CASE, stride=(2, 2)), (FAST, SLOW, OTHER))
    assert able == [SLOW]
    assert refused == [("conv2d.csr.fake.fast", "stride is not 1")]


def test_no_kernel() -> None:
    with pytest.raises(NoKernelError) as caught:
        select(with_op(CASE, stride=(2, 2)), (FAST, OTHER))
    assert str(caught.value) == (
        "nothing can run conv2d.csr:n1c1h8w8_k1r3s3_st2pd0g1 with backends=('fake',)\n"
        "  conv2d.csr.fake.fast               stride is not 1\n"
        '  try     add "numpy" to the backends'
    )
    with pytest.raises(NoKernelError, match="no row is registered for this op and format"):
        select(CASE, (OTHER,))


def test_backend_by_name() -> None:
    for name in USABLE:
        assert backend(name).NAME == name
        assert set(backend(name).FALLBACK) <= set(BACKENDS)
        assert all(row.backend == name for row in backend(name).kernels())
    with pytest.raises(UsageError, match="unknown backend 'cuda', wanted one of openmp, opencl, blas, numpy, clblast"):
        backend("cuda")


def test_rows_of_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend's rows first, then those it falls back to, each once."""
    blas, numpy = backend("blas").kernels(), backend("numpy").kernels()
    assert [row.name for row in rows(["blas"])] == [row.name for row in (*blas, *numpy)]
    assert [row.name for row in rows(["numpy", "blas"])] == [row.name for row in (*numpy, *blas)]
    with pytest.raises(UsageError, match="no backend named, wanted at least one of openmp, opencl, blas, numpy"):
        rows([])
    monkeypatch.setattr(backend("blas"), "unavailable", lambda: "no scipy; try  pip install scipy")
    with pytest.raises(BackendUnavailable, match="backend blas: no scipy; try  pip install scipy"):
        rows(["blas"])


def test_numpy_can_run_everything() -> None:
    """Every op in every format or dtype that the graph may ask for, without a need: there is always an answer. Only the
    planner asks for reorders, and for none to patches that an image does not fall into."""
    listed = {(row.op, row.format): row for row in backend("numpy").kernels()}
    weighted = {(op, format) for op in ("conv2d", "linear") for format in FORMATS}
    moving = {(op, dtype) for op in ("maxpool", "concat", "flatten", "reorder") for dtype in ("float32", "int8")}
    single = {(op, "float32") for op in ("avgpool", "globalavgpool", "relu", "add", "softmax", "quantize")}
    assert set(listed) == weighted | moving | single | {("batchnorm", "dense")}
    assert {op for op, _ in listed} == {*OPS, "reorder"}
    assert [row.op for row in listed.values() if row.needs] == ["reorder", "reorder"]
    assert not any(row.scratch(CASE) or row.layouts != ("nchw", "nchw") for row in listed.values())


@pytest.mark.parametrize("name", USABLE)
def test_rows_are_well_formed(name: str) -> None:
    for row in backend(name).kernels():
        assert row.name == f"{row.op}.{row.format}.{row.backend}.{row.variant}"
        assert row.name.count(".") == 3
        assert row.op in {*OPS, "reorder"}
        assert row.format in {*FORMATS, "float32", "int8"}
        assert all(layout in ("nchw", "nhwc") or layout_block(layout) for layout in row.layouts)
        assert all(block > 1 for block in row.blocks)


def test_problems_are_repeatable() -> None:
    """The same seed gives the same arrays; another change gives others."""
    row = next(row for row in backend("numpy").kernels() if row.name == "conv2d.csr.numpy.reference")
    first, second = draw(row, Seeded(7)), draw(row, Seeded(7))
    assert isinstance(first, Problem)
    assert first == second
    assert str(first) == f"{first.case.word}@{first.fill} with seed {first.seed}"
    for a, b in zip(inputs_of(first), inputs_of(first), strict=True):
        np.testing.assert_array_equal(a, b)
    assert node_of(first).weight.decode().tobytes() == node_of(second).weight.decode().tobytes()
    assert any((a != b).any() for a, b in zip(inputs_of(first), inputs_of(first, change=1), strict=True))


def test_words_name_cases() -> None:
    """Every word that the drawing makes is read back as the case it stands for."""
    seen = 0
    for row in backend("numpy").kernels():
        for seed in range(20):
            problem = draw(row, Seeded(seed))
            assert problem is not None
            assert parse_case(problem.case.word) == problem.case
            seen += 1
    assert seen > 400


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("conv2d", "'conv2d' is no op.format, for example conv2d.dense:n1c3h8w8_k4r3s3_st1pd1g1"),
        ("conv9.dense:n1c1", "'conv9.dense' is no op.format"),
        ("conv2d.dense:n1c3h8_k1", "'n1c3h8' is no input shape, wanted n1c3h8w8 or n1c3"),
        ("relu.float32:n1c1_foo", "part 'foo' is not understood"),
        ("relu.float32:n1c1_", "part '' is not understood"),
        ("conv2d.dense:n1c3h8w8_st1pd1g1", "conv2d lacks or does not take a part"),
        ("add.float32:n1c1", "add takes 2 inputs, got 1"),
        ("linear.dense:n1c3h2w2_k3", "put a Flatten before it"),
        ("conv2d.dense:n1c3h8w8_k4r3s3_st1,2,3pd1g1", "stride is"),
        ("conv2d.dense:n1c3h1w1_k4r3s3_st1pd0g1", "window of 3"),
    ],
)
def test_words_that_name_no_case(word: str, message: str) -> None:
    with pytest.raises(RefstackError, match=message):
        parse_case(word)
