"""Kernels for processors: what drawn problems seldom reach, and what they do without this processor's instructions."""

from __future__ import annotations

import numpy as np
import pytest

from refstack.backends import opencl
from refstack.kernels import Kernel
from refstack.verification.cases import Seeded, parse_problem
from refstack.verification.harness import draw, examine

pytestmark = pytest.mark.skipif(opencl.unavailable() is not None, reason=str(opencl.unavailable()))


def row(name: str) -> Kernel:
    return next(each for each in opencl.kernels() if each.name == name)


# Maps of 16 pixels that are not 4x4, with taps beyond the image on every side.
ONE_VECTOR = ("n2c17h1w7_k17r3s3_st1pd1,1,2,2g17", "n1c5h16w2_k4r3s3_st2,1pd1g1", "n1c3h3w18_k5r3s3_st1pd0g1")


@pytest.mark.parametrize("sizes", ONE_VECTOR)
@pytest.mark.parametrize("format", ["csr", "ternary"])
def test_maps_of_one_vector(format: str, sizes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their planes lie tap by tap; planes that are copied by rows give another answer."""
    from refstack.backends.opencl import packing_cpu

    planar, density = row(f"conv2d.{format}.opencl.cpu_planar"), "_d0.20" if format == "ternary" else ""
    problem = parse_problem(f"conv2d.{format}:{sizes}{density}@integer", 3)
    assert not examine(planar, problem, threads=(1,)).problem
    monkeypatch.setattr(packing_cpu, "where", lambda v, planes, case: np.full(1, -2, np.int32))
    assert examine(planar, problem, threads=(1,)).problem


AVX512 = ("__AVX512F__", "__AVX512VNNI__", "__AVX512VBMI__")
WITHOUT = {"avx512": AVX512, "avx": (*AVX512, "__AVX2__", "__clang__")}
ROWS = (
    "conv2d.dense.opencl.cpu_blocked", "conv2d.csr.opencl.cpu_planar", "conv2d.int8.opencl.cpu_depthwise",
    "conv2d.ternary8.opencl.cpu_map2", "linear.half.opencl.cpu_blocked_half", "linear.int8.opencl.cpu_blocked",
    "linear.ternary.opencl.cpu_blocked",
)  # fmt: skip


def without(macros: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, old: str = "", new: str = "") -> None:
    """Compile anew, for a processor that lacks something; `old` is replaced in the sources."""
    from refstack.backends.opencl import segment

    whole, device = segment.text, segment.Runtime(opencl.devices.chosen())
    hidden = "".join(f"#undef {macro}\n" for macro in macros)
    monkeypatch.setattr(segment, "text", lambda *given: hidden + whole(*given).replace(old or new, new))
    monkeypatch.setattr(segment, "runtime", lambda: device)


def problem_with(name: str) -> str:
    """What is found wrong on three drawn problems, or nothing."""
    for seed in range(3):
        problem = draw(row(name), Seeded(seed))
        assert problem is not None
        if found := examine(row(name), problem, threads=(1,)).problem:
            return f"{problem}: {found}"
    return ""


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("lacking", WITHOUT)
def test_other_processors(lacking: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers where the compiler says that it has no such vectors."""
    without(WITHOUT[lacking], monkeypatch)
    found = problem_with(name)
    assert not found, found


def test_other_processors_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of four that is taken without its sign, where there is no instruction for the four."""
    without(WITHOUT["avx"], monkeypatch, "(w << 16 >> 24)", "(w >> 8 & 255)")
    assert problem_with("linear.int8.opencl.cpu_blocked")
