"""Every OpenMP row against the NumPy reference, on shapes that go around its blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmp_cases
import pytest
from openmp_cases import ROWS, V, able, bound, conv, execute, expected, inputs, node

import refstack as rs
from refstack import ops
from refstack.backends.packing_sparse import first_cache
from refstack.formats import INTEGER
from refstack.kernels import Case, Kernel, Reorder
from refstack.models import zoo
from refstack.reference import layer

pytestmark = openmp_cases.pytestmark


@pytest.mark.parametrize("kernel", ROWS, ids=lambda kernel: kernel.name)
def test_integers_are_exact(kernel: Kernel) -> None:
    compared = 0
    for seed, case in enumerate(able(kernel)):
        rng = np.random.default_rng(seed)
        made, xs = node(rng, case, integer=True), inputs(rng, case, integer=True)
        y = execute(kernel, made, case, xs, threads=1 + seed % 3)
        if not kernel.exact:
            assert (np.abs(y - expected(made, case, xs)) <= bound(made, case, xs)).all(), case.word
        elif case.format in INTEGER:
            np.testing.assert_array_equal(y, layer(made, *xs) if case.op.name != "reorder" else xs[0], case.word)
        else:
            np.testing.assert_array_equal(y, expected(made, case, xs).astype(y.dtype), case.word)
        compared += y.size
    assert compared > 0, f"no case of the list suits {kernel.name}"


@pytest.mark.parametrize("kernel", [k for k in ROWS if k.format not in INTEGER], ids=lambda kernel: kernel.name)
def test_reals_stay_in_their_bound(kernel: Kernel) -> None:
    compared = 0
    for seed, case in enumerate(able(kernel)):
        if case.output == "int8":
            continue
        rng = np.random.default_rng(1000 + seed)
        made, xs = node(rng, case, integer=False), inputs(rng, case, integer=False)
        y = execute(kernel, made, case, xs)
        error = np.abs(y - expected(made, case, xs))
        assert (error <= bound(made, case, xs)).all(), f"{case.word}: off by {error.max()}"
        compared += y.size
    assert compared > 0 or kernel.op == "quantize"


@pytest.mark.parametrize("op", ["relu", "maxpool", "add"])
def test_nan_survives(op: str) -> None:
    for kernel in (row for row in ROWS if row.op == op and row.format == "float32"):
        for case in able(kernel)[:2]:
            rng = np.random.default_rng(0)
            xs = inputs(rng, case, integer=False)
            xs[0][0, 1, 1:3] = np.nan
            wanted = layer(node(rng, case, False), *xs)
            assert np.isnan(wanted).any()
            np.testing.assert_array_equal(execute(kernel, node(rng, case, False), case, xs), wanted)


def test_a_planted_fault_is_caught() -> None:
    """Another stride than the reference's must not pass."""
    kernel = next(row for row in ROWS if row.name == "conv2d.dense.openmp.direct")
    case = Case(conv(4, stride=2), "dense", ((1, 3, 8, 8),))
    rng = np.random.default_rng(0)
    made, xs = node(rng, case, True), inputs(rng, case, True)
    wrong = Case(conv(4, stride=2, padding=(0, 1, 2, 1)), "dense", case.inputs)
    assert not np.array_equal(execute(kernel, made, wrong, xs), expected(made, case, xs))


def test_refusals_say_why() -> None:
    rows = {row.name: row for row in ROWS}
    grouped = Case(conv(16, groups=16, stride=3), "dense", ((1, 16, 8, 8),))
    assert rows["conv2d.dense.openmp.blocked"].refusal(grouped) == "groups is 16, this kernel needs 1"
    strided = Case(conv(16, stride=3), "dense", ((1, 16, 8, 8),))
    assert rows["conv2d.dense.openmp.blocked"].refusal(strided) == "stride is 3, this kernel needs at most 2"
    vector = Case(ops.ReLU(), "float32", ((1, 10),))
    assert rows["relu.float32.openmp.blocked"].refusal(vector) == "input has 2 axes, a blocked layout needs 4"


def test_the_first_cache_is_the_one_that_linux_tells(tmp_path: Path) -> None:
    """Not the instructions', not the second one; the usual size where there is nothing to read."""
    assert first_cache(tmp_path) == 32 * 1024
    for i, told in enumerate((("1", "Instruction", "64K"), ("1", "Data", "48K"), ("2", "Unified", "2048K"))):
        (tmp_path / f"index{i}").mkdir()
        for name, word in zip(("level", "type", "size"), told, strict=True):
            (tmp_path / f"index{i}" / name).write_text(f"{word}\n")
    assert first_cache(tmp_path) == 48 * 1024
    (tmp_path / "index1" / "size").write_text("unknown\n")
    assert first_cache(tmp_path) == 32 * 1024


def test_a_sparse_network_stays_in_patches() -> None:
    """From the first layer to the last map that falls into them nothing is reordered; all but 4x4 runs on patches."""
    plan = rs.plan(rs.compress(zoo.load("resnet18"), "weight", 0.9), backends=("openmp",))
    moves = [step.node.name for step in plan.steps if isinstance(step.case.op, Reorder)]
    rows = {step.case.shape[2:]: step.kernel.variant for step in plan.steps if step.case.format == "csr"}
    assert moves == [f"input:nchw{V}p"]
    assert rows[32, 32] == rows[16, 16] == rows[8, 8] == "patches"
