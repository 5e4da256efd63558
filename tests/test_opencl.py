"""The OpenCL backend around its kernels: choosing a device, what goes wrong there, what the harness sees of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import refstack as rs
from refstack import ops
from refstack.backends import opencl, stopwatch
from refstack.backends.opencl import devices
from refstack.backends.opencl.devices import Device, choose
from refstack.benchmark.cells import sweep
from refstack.compare import check_plan
from refstack.errors import BackendUnavailable, ResourceError, UsageError
from refstack.formats import Dense
from refstack.graph import INPUT, Graph, Node
from refstack.kernels import Kernel
from refstack.verification.cases import parse_problem
from refstack.verification.examiner import in_process

pytestmark = pytest.mark.skipif(opencl.unavailable() is not None, reason=str(opencl.unavailable()))


def device(name: str, kind: str, problem: str = "") -> Device:
    return Device("Some Platform", name, "1.2", kind, 2, 256, 32768, 1 << 30, 128, True, problem)


FOUND = (device("Slow", "cpu"), device("Broken", "gpu", "it crashed"), device("Fast", "gpu"), device("Sim", "other"))


def test_a_gpu_that_works_comes_first() -> None:
    assert choose(FOUND, "").name == "Fast"
    assert choose(FOUND[:2], "").name == "Slow"
    assert choose(FOUND, "cpu").name == "Slow"
    assert choose(FOUND, "platform: fast").name == "Fast"
    assert choose(FOUND, "sim").name == "Sim"  # a simulator is never taken unasked
    with pytest.raises(BackendUnavailable, match=r"no device works; there are: Some Platform: Sim \(works\)"):
        choose(FOUND[3:], "")
    with pytest.raises(BackendUnavailable, match=r"called 'broken'; .*: Broken \(it crashed\)"):
        choose(FOUND, "broken")


def told(code: str, **settings: str) -> str:
    """What a fresh process prints, its devices not known yet."""
    kept = {name: value for name, value in os.environ.items() if name != devices.TRIED}
    path = str(Path(rs.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | {"PYTHONPATH": path} | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REASON = "from refstack.backends import opencl; print(opencl.unavailable())"


def test_no_pyopencl() -> None:
    missing = "import importlib.util as u; u.find_spec = lambda name, *more: None; "
    assert 'pyopencl is not installed; try  pip install "refstack-engine[opencl]"' in told(missing + REASON)


def test_no_platform(tmp_path: Path) -> None:
    """A loader that finds no driver."""
    reason = told(REASON, OCL_ICD_VENDORS=str(tmp_path / "nowhere"))
    assert "PLATFORM_NOT_FOUND" in reason
    assert "install a driver's ICD" in reason


def test_a_runtime_that_ends_the_process(tmp_path: Path) -> None:
    """PoCL aborts where it finds no linker; the parent lives and says so."""
    reason = told(REASON, PATH="/nonexistent", POCL_CACHE_DIR=str(tmp_path), REFSTACK_DEVICE="portable")
    assert "no device that works is called 'portable'" in reason
    assert "the runtime ended the process" in reason


def test_a_device_that_is_not_there() -> None:
    assert "called 'quantum'; there are: " in told(REASON, REFSTACK_DEVICE="quantum")


def test_threads_are_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyopencl  # noqa: F401  whoever loads it settles them

    monkeypatch.setenv(devices.THREADS, "2")
    opencl.hold(2)
    with pytest.raises(UsageError, match="loaded with 2 threads, asked for are 5: a process keeps its number"):
        opencl.hold(5)


def test_a_gpu_is_timed_once() -> None:
    """Threads of the host mean nothing to it."""
    cells = sweep(["vgg16"], ["dense"], ["openmp", "opencl"], [1, 2], 1, ["opencl"])
    assert [(cell.backend, cell.threads) for cell in cells] == [("openmp", 1), ("openmp", 2), ("opencl", 1)]


RELU = "__kernel void {name}({x} __global float *x, __global float *y, const rs_args a) {{ {body} }}"
ITEM = "const int i = get_global_id(0), last = a.n * a.c * a.h * a.w - 1; if (i > last) return; "


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    """A relu row whose kernel has another body."""
    from refstack.backends.opencl import segment

    (tmp_path / "rs.cl").write_text((segment.sources() / "rs.cl").read_text())
    monkeypatch.setattr(segment, "sources", lambda: tmp_path)
    right = next(row for row in opencl.kernels() if row.name == "relu.float32.opencl.direct")

    def made(name: str, body: str, const: str = "const", **fields: object) -> Kernel:
        (tmp_path / f"{name}.cl").write_text(RELU.format(name=name, body=ITEM + body, x=f"{const}"))
        return replace(right, run=replace(right.run, source=name, function="", **fields), in_place=False)

    return made


PROBLEM = parse_problem("relu.float32:n1c3h5w7_relu@normal", 3)


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("rs_honest", "y[i] = rs_activate(x[i], a.activation);", ""),
        ("rs_behind", "y[i] = rs_activate(x[i], a.activation); y[last + 1] = 0;", "beside an array"),
        ("rs_before", "y[i] = rs_activate(x[i], a.activation); y[-1] = 0;", "beside an array"),
        ("rs_unwritten", "if (i < last) y[i] = rs_activate(x[i], a.activation);", "got nan"),
        ("rs_clobbers", "y[i] = rs_activate(x[i], a.activation); x[i] = 1;", "an input or a weight was written to"),
        ("rs_forgets", "y[i] = x[i];", "error"),
    ],
)
def test_what_the_harness_sees(wrong: Callable[..., Kernel], name: str, body: str, says: str) -> None:
    """Margins, inputs and unwritten numbers of the device's own memory."""
    found = in_process(wrong(name, body, "" if "clobbers" in name else "const"), PROBLEM)
    if says:
        assert found.state == "FAIL"
        assert says in found.reason
    else:
        assert found.state == "PASS"


def test_a_kernel_that_does_not_compile(wrong: Callable[..., Kernel]) -> None:
    """The compiler's words, with the file's own lines."""
    found = in_process(wrong("rs_torn", "y[i] = nothing;"), PROBLEM)
    assert found.state == "FAIL"
    assert "rs_torn.cl does not compile for" in found.reason
    assert "rs_torn.cl:1" in found.reason


def test_a_group_that_is_too_large(wrong: Callable[..., Kernel]) -> None:
    row = wrong("rs_wide", "y[i] = x[i];", group=(1 << 20,), size=lambda case: (1 << 20,))
    assert "a work-group takes 1048576 work-items" in in_process(row, PROBLEM).reason


def test_no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyopencl as cl

    from refstack.backends.opencl import segment

    def full(self: object, nbytes: int) -> None:
        raise cl.MemoryError("create_buffer", -4, "")

    monkeypatch.setattr(segment.Runtime, "buffer", full)
    with pytest.raises(ResourceError, match=r"OpenCL: memory for the steps failed .* use a smaller --batch"):
        rs.plan(rs.load("mobilenet"), backends=("opencl",))


def small() -> Graph:
    """Two runs of steps on the device with one on the host between."""
    rng = np.random.default_rng(0)

    def conv(k: int, c: int) -> tuple[ops.Conv2d, Dense]:
        weight = Dense.encode(rng.standard_normal((k, c * 9)).astype(np.float32))
        return ops.Conv2d((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), k, 1, "relu"), weight

    (first, w1), (second, w2) = conv(6, 3), conv(5, 12)
    nodes = (
        Node("a", first, (INPUT,), w1),
        Node("b", ops.ReLU(), ("a",)),
        Node("c", ops.Concat(), ("a", "b")),
        Node("d", second, ("c",), w2),
        Node("e", ops.GlobalAvgPool(), ("d",)),
    )
    return Graph("small", (3, 8, 8), nodes)


def test_a_plan_that_goes_to_the_device_twice() -> None:
    """What a later step of the host or the device reads comes back, and only that."""
    graph, x = small(), np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    made = rs.plan(graph, 2, ("opencl",))
    assert [step.kernel.backend for step in made.steps].count("numpy") == 1
    assert len(made.segments) == 3
    verdict = check_plan(made, x)
    assert verdict.passed, verdict.problem
    again = made.run(-x)
    assert not np.array_equal(again, verdict.output)
    assert np.array_equal(made.run(x), verdict.output)


def test_the_devices_own_clock() -> None:
    steps = [step for step in rs.plan(small(), 1, ("opencl",)).steps[:2] if step.kernel.backend == "opencl"]
    times = stopwatch("opencl", steps, 1)()
    assert len(times) == len(steps)
    assert all(0 < ns < 10**9 for ns in times)


def test_threads_keep_to_processors_where_there_are_just_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, threads, wanted in (({0, 1}, "2", "1"), ({0, 1}, "1", "0"), ({2, 3}, "2", "0"), ({0}, "", "0")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, found=allowed: found)
        monkeypatch.setattr(os, "cpu_count", lambda: 4)
        monkeypatch.setenv(devices.THREADS, threads)
        assert devices.seats() == wanted
