"""The OpenCL rows: which kernel computes what, what it needs, how it is called.

Rows for processors and for GPUs stand in one list, those of the chosen device's kind first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from refstack.backends import packing, packing_sparse
from refstack.backends.needs import between
from refstack.backends.opencl import rows_cpu
from refstack.backends.opencl.devices import Device
from refstack.backends.opencl.rows_cpu_plain import doubles
from refstack.backends.opencl.rows_gpu import rows_gpu
from refstack.backends.opencl.segment import Launch
from refstack.kernels import Case, Kernel, Reorder, layout_block, layout_shape

GROUP = 64
"""Work-items of a work-group where the kernel does not care."""


def rows(backend: str, device: Device) -> tuple[Kernel, ...]:
    """Best first for every op and format."""
    plain = (*_direct(), *_pointwise(device))
    processor, gpu = (*rows_cpu.rows(device), *_reorders()), rows_gpu(device)
    listed = (*gpu, *plain, *processor) if device.kind == "gpu" else (*processor, *plain, *gpu)
    return tuple(replace(row, backend=backend) for row in listed)


def row(name: str, run: Launch, summary: str, **fields: Any) -> Kernel:
    """A row that reads and writes nchw unless `layouts` says otherwise; its name is op.format.variant."""
    op, format, variant = name.split(".")
    return Kernel(op, format, "", variant, run, summary=summary, **fields)


def each_number(layout: str = "nchw") -> Callable[[Case], tuple[int]]:
    """A work-item for every number of the output."""

    def size(case: Case) -> tuple[int]:
        target = getattr(case.op, "target", layout) if len(case.shape) == 4 else "nchw"
        return (-(-math.prod(layout_shape(target, case.shape)) // GROUP) * GROUP,)

    return size


def _each(source: str, function: str = "", **defines: int) -> Launch:
    return Launch(source, each_number(), (GROUP,), lambda case: defines, function, walks=True)


def _direct() -> tuple[Kernel, ...]:
    """Any convolution, and linear layers as convolutions of one pixel."""
    found: list[Kernel] = []
    dense = _each("conv2d_dense_direct", HALF=0)
    for op, csr, int8 in (
        ("conv2d", packing_sparse.csr_direct, packing.int8_direct),
        ("linear", packing_sparse.csr_taps, packing.int8_direct),
    ):
        found.append(row(f"{op}.dense.direct", dense, "the plain loop", pack=packing.matrix))
        half = _each("conv2d_dense_direct", HALF=1)
        found.append(row(f"{op}.half.direct", half, "the plain loop, two bytes a weight", pack=packing.half_matrix))
        sparse = _each("conv2d_csr_direct")
        found += [row(f"{op}.{each}.direct", sparse, "the plain sparse loop", pack=csr)
                  for each in ("csr", "bsr", "ternary")]  # fmt: skip
        integer = _each("conv2d_int8_direct")
        found += [row(f"{op}.{each}.direct", integer, "the plain loop", pack=int8) for each in ("int8", "ternary8")]
    return tuple(found)


def _reorders() -> tuple[Kernel, ...]:
    """To and from nchw, a row at a time: for processors."""

    def size(case: Case) -> tuple[int]:
        op, (n, c, h, _) = cast(Reorder, case.op), case.inputs[0]
        lanes = layout_block(op.source if op.target == "nchw" else op.target)
        return (-(-n * -(-c // lanes) * h // GROUP) * GROUP,)

    needs = (between("nchw", "nchw8c", "nchw16c"),)
    return tuple(
        row(f"reorder.{dtype}.rows",
            Launch("reorder_rows", size, (GROUP,), function=f"reorder_{dtype}_rows", walks=True),
            "a row of one block", needs=needs)
        for dtype in ("float32", "int8")
    )  # fmt: skip


def _pointwise(device: Device) -> tuple[Kernel, ...]:
    def one(name: str, function: str, **fields: Any) -> Kernel:
        launch = _each("pointwise", function, DOUBLES=int(device.doubles))
        return row(name, launch, "number by number", **fields)

    across = between("nchw", "nchw8c", "nchw16c")
    return (
        one("relu.float32.direct", "relu", in_place=True),
        one("add.float32.direct", "add", in_place=True),
        one("batchnorm.dense.direct", "batchnorm", pack=lambda node, case: packing.batchnorm(1, node, case),
            exact=False, in_place=True),
        one("maxpool.float32.direct", "maxpool_float32"),
        one("maxpool.int8.direct", "maxpool_int8"),
        one("avgpool.float32.direct", "avgpool", pack=lambda node, case: packing.avgpool(1, node, case), exact=False),
        one("globalavgpool.float32.direct", "globalavgpool", exact=False),
        one("quantize.float32.direct", "quantize", pack=lambda node, case: packing.quantize(1, node, case),
            needs=(doubles(device),)),
        one("reorder.float32.direct", "reorder_float32", needs=(across,)),
        one("reorder.int8.direct", "reorder_int8", needs=(across,)),
    )  # fmt: skip
