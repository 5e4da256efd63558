"""The reference as a backend: one row for every op and format, needing nothing, so there is always an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from threadpoolctl import ThreadpoolController

from refstack.backends import Step
from refstack.formats import FORMATS
from refstack.kernels import Kernel, Reorder, from_nchw, to_nchw
from refstack.ops import OPS
from refstack.reference import layer

NAME = "numpy"
FALLBACK: tuple[str, ...] = ()


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


def kernels() -> tuple[Kernel, ...]:
    """Layers with weights in every format, the others for every dtype they take."""
    weighted = {"conv2d": tuple(FORMATS), "linear": tuple(FORMATS), "batchnorm": ("dense",)}
    integer = ("maxpool", "flatten", "concat")
    listed = [
        Kernel(op, format, NAME, "reference", reference)
        for op in OPS
        for format in weighted.get(op, ("float32", "int8") if op in integer else ("float32",))
    ]
    return (*listed, *(Kernel("reorder", dtype, NAME, "reference", reorder) for dtype in ("float32", "int8")))


def lower(steps: Sequence[Step], threads: int) -> Callable[[], None]:
    """Call each row's function in turn, with BLAS held to `threads`."""
    pools = ThreadpoolController()

    def run() -> None:
        with pools.limit(limits=threads):
            for step in steps:
                step.kernel.run(step)

    return run
