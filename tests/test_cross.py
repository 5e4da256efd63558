"""Kernels on another processor: the way there and back, and NEON where compiler and emulator are installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cross.verify import Remote, check, lent

from refstack.backends import compilers, openmp
from refstack.kernels import Kernel
from refstack.verification.verdicts import verdict

QUICKLY = ("-O0",)
TOOLS = {"native": (None, "env"), "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64")}


@pytest.fixture(scope="module", params=TOOLS)
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    """The kernels in a process of their own: this processor's, without an emulator, and aarch64's."""
    if reason := openmp.unavailable():
        pytest.skip(f"openmp: {reason}")
    cc, run = TOOLS[request.param]
    cc = cc or compilers.compiler().path
    missing = [tool for tool in (cc, run) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (apt install gcc-aarch64-linux-gnu qemu-user)")
    made = Remote(tmp_path_factory.mktemp(request.param), cc, run, QUICKLY)
    yield made
    made.close()


def row(remote: Remote, name: str) -> Kernel:
    return next(row for row in remote.rows if row.name == name)


@pytest.mark.parametrize("glob", ["linear.*", "add.float32.*", "conv2d.int8.openmp.direct"])
def test_kernels_there_are_right(remote: Remote, glob: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(remote, glob, 12) == 0
    told = capsys.readouterr().out
    assert f"vectors of {remote.width} float32" in told
    assert "planted fault: FAIL" in told


def test_a_fault_there_is_seen(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row runs another's function."""
    wrong = {"rs_relu_float32": "rs_softmax_float32"}
    names = [wrong.get(name, name) for name in remote.functions]
    monkeypatch.setattr(remote, "functions", [*reversed(names)])
    with lent(remote):
        assert verdict(row(remote, "relu.float32.openmp.planar"), 4).state != "PASS"


def test_a_crash_there_is_a_verdict(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of, and the next kernel finds the other side alive."""
    monkeypatch.setattr(remote, "command", ["sh", "-c", "printf '\\1\\0\\0\\0\\0\\0\\0\\0'; exit 7"])
    remote.close()
    with lent(remote):
        found = verdict(row(remote, "relu.float32.openmp.planar"), 4)
    assert (found.state, "the emulated process ended with status 7" in found.reason) == ("CRASH", True)
    monkeypatch.undo()
    with lent(remote):
        assert verdict(row(remote, "relu.float32.openmp.planar"), 6).state == "PASS"


SATURATING = """
RS_INLINE rs_ivec rs_pair(rs_ivec v) {
    const rs_ivec low = (rs_ivec){0} - 32768, high = (rs_ivec){0} + 32767;
    return (rs_ivec)rs_select(v < low, (rs_vec)low, rs_select(v > high, (rs_vec)high, (rs_vec)v));
}
"""


def test_sums_that_saturate_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap of vpmaddubsw, which adds two products of bytes in 16 bits."""
    if reason := openmp.unavailable():
        pytest.skip(f"openmp: {reason}")
    shutil.copytree(openmp.sources(), tmp_path / "openmp")
    header = tmp_path / "openmp" / "rs_int8.h"
    text, mark = header.read_text(), "/* acc[i] += sum over j < 4"
    whole = "return acc + (v << 24 >> 24) * x[0] + (v << 16 >> 24) * x[1] + (v << 8 >> 24) * x[2] + (v >> 24) * x[3];"
    pairs = "return acc + rs_pair((v << 24 >> 24) * x[0] + (v << 16 >> 24) * x[1])"
    pairs += " + rs_pair((v << 8 >> 24) * x[2] + (v >> 24) * x[3]);"
    assert (text.count(mark), text.count(whole)) == (1, 1)
    header.write_text(text.replace(whole, pairs).replace(mark, SATURATING + mark))
    monkeypatch.setattr(openmp, "sources", lambda: tmp_path / "openmp")
    made = Remote(tmp_path, compilers.compiler().path, "env", QUICKLY)
    try:
        with lent(made):
            for name in ("conv2d.int8.openmp.blocked", "linear.int8.openmp.blocked"):
                assert verdict(row(made, name), 12).state == "FAIL", name
    finally:
        made.close()
