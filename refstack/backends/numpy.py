"""The reference as a backend: one row for every op and format, needing nothing, so there is always an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from refstack.backends import Step
from refstack.formats import FORMATS
from refstack.kernels import Kernel, Reorder, layout_block
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
    op, x = step.case.op, step.inputs[0]
    assert isinstance(op, Reorder)
    n, c, h, w = step.case.shape
    if op.source == "nhwc":
        x = x.transpose(0, 3, 1, 2)
    elif op.source != "nchw":
        x = x.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c]
    if op.target == "nhwc":
        x = x.transpose(0, 2, 3, 1)
    elif op.target != "nchw":
        block = layout_block(op.target)
        x = np.pad(x, ((0, 0), (0, -c % block), (0, 0), (0, 0))).reshape(n, -1, block, h, w).transpose(0, 1, 3, 4, 2)
    step.output[...] = x


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
    """Call each row's function in turn. BLAS inside NumPy follows the process's own thread limit."""

    def run() -> None:
        for step in steps:
            step.kernel.run(step)

    return run
