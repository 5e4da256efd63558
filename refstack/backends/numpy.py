"""The reference as a backend: one row for every op and format, needing nothing, so there is always an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_info

from refstack.backends import Step
from refstack.backends.compilers import cpu_features
from refstack.formats import FORMATS, Array
from refstack.kernels import Case, Kernel, Reorder, from_nchw, misfit, to_nchw
from refstack.ops import OPS
from refstack.reference import layer

NAME = "numpy"
FALLBACK: tuple[str, ...] = ()
_turn = threading.Lock()


def unavailable() -> str | None:
    """NumPy is always here."""
    return None


def reference(step: Step) -> None:
    """output = the layer's formula."""
    step.output[...] = layer(step.node, *step.inputs)


def reorder(step: Step) -> None:
    """Copy between nchw and another layout; channels beyond c become zeros."""
    op = step.case.op
    assert isinstance(op, Reorder)
    step.output[...] = from_nchw(to_nchw(step.inputs[0], op.source, step.case.shape), op.target)


def fits(case: Case) -> str | None:
    """Both layouts of a reorder can hold the value."""
    op, shape = case.op, case.shape
    assert isinstance(op, Reorder)
    return misfit(op.source, shape) or misfit(op.target, shape)


def kernels() -> tuple[Kernel, ...]:
    """Layers with weights in every format, the others for every dtype they take."""
    weighted = {"conv2d": tuple(FORMATS), "linear": tuple(FORMATS), "batchnorm": ("dense",)}
    integer = ("maxpool", "flatten", "concat")
    listed = [
        Kernel(op, format, NAME, "reference", reference, in_place=op in ("relu", "add", "batchnorm", "softmax"))
        for op in OPS
        for format in weighted.get(op, ("float32", "int8") if op in integer else ("float32",))
    ]
    copies = (Kernel("reorder", dtype, NAME, "reference", reorder, (fits,)) for dtype in ("float32", "int8"))
    return (*listed, *copies)


def build_id() -> str:
    """NumPy, and the BLAS behind it as it has tuned itself to this processor."""
    return f"numpy {np.__version__}, {blas()}, {cpu_features()}"


def blas() -> str:
    """Library behind numpy's matrix products, with version and the core it was tuned for."""
    found = [info for info in threadpool_info() if info["user_api"] == "blas"]
    if not found:
        return ""
    used = min(found, key=lambda info: "numpy" not in info["filepath"])  # scipy brings one of its own
    return " ".join(str(used.get(name) or "") for name in ("internal_api", "version", "architecture"))


@contextmanager
def held(pools: ThreadpoolController, threads: int) -> Iterator[None]:
    """BLAS on `threads` threads, one caller at a time.

    The number belongs to the whole process: two callers at once would compute with each other's, and the one who leaves
    last would put back what the other had set.
    """
    with _turn, pools.limit(limits=threads):
        yield


def lower(steps: Sequence[Step], threads: int, outputs: Sequence[Array] | None = None) -> Callable[[], None]:
    """Call each row's function in turn, with BLAS held to one thread: what all are compared with has one answer."""
    pools = ThreadpoolController()

    def run() -> None:
        with held(pools, 1):
            for step in steps:
                step.kernel.run(step)

    return run
