"""What the rows for processors share: vectors of 16 lanes, work-items that are groups of their own.

V is 16 on every device: compilers cut a vector into what the processor has. Weights are packed as for OpenMP kernels
of that width. Next: rows_cpu.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from refstack.backends import packing
from refstack.backends.opencl.segment import Launch
from refstack.kernels import Case, Kernel
from refstack.ops import Conv2d

V = 16
LANES = f"nchw{V}c"

Size = Callable[[Case], tuple[int, ...]]
Pack = Callable[..., packing.Packed]


def blocks(channels: int, lanes: int = V) -> int:
    """Blocks of so many channels."""
    return -(-channels // lanes)


def groups(most: int, k: int) -> int:
    """How many groups of blocks share out k channels (rs_span of rs_cpu.cl)."""
    outs = blocks(k)
    return outs // most + outs % most // 2 + outs % most % 2


def conv(case: Case) -> Conv2d:
    """Its operation."""
    return cast(Conv2d, case.op)


def alone(source: str, function: str, size: Size, **defines: int) -> Launch:
    """Work-items that are groups of their own, in three dimensions."""
    return Launch(
        source, lambda case: (*size(case), 1, 1)[:3], (1, 1, 1), lambda case: defines, function, walks=True, alone=True
    )


def phases(source: str, sizes: dict[str, Size], **defines: int) -> tuple[Launch, ...]:
    """The functions of a source in order."""
    return tuple(alone(source, function, size, **defines) for function, size in sizes.items())


def row(name: str, run: Launch | tuple[Launch, ...], summary: str, **fields: Any) -> Kernel:
    """A row that reads and writes nchw unless `layouts` says otherwise; its name is op.format.variant."""
    op, format, variant = name.split(".")
    return Kernel(op, format, "", f"cpu_{variant}", run, summary=summary, **fields)
