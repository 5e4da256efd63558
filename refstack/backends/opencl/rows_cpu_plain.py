"""Rows for processors of layers that weigh nothing, for blocked channels and for nchw."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from refstack.backends import packing
from refstack.backends.needs import between, image
from refstack.backends.opencl.devices import Device
from refstack.backends.opencl.lanes_cpu import LANES, Pack, Size, V, alone, blocks, row
from refstack.kernels import Case, Kernel, Need

PIECE = 1024
"""Numbers of a work-item, a multiple of V."""


def plain(device: Device) -> tuple[Kernel, ...]:
    """Best first."""
    both = partial(_both, int(device.doubles))
    return (
        _turned("float32"),
        _turned("int8"),
        *both("relu.float32", "relu", _pieces, in_place=True),
        *both("add.float32", "add", _pieces, in_place=True),
        *both("batchnorm.dense", "batchnorm", _planes, packing.batchnorm, exact=False, in_place=True),
        *both("maxpool.float32", "maxpool_float32", _lines),
        *both("maxpool.int8", "maxpool_int8", _lines),
        *both("avgpool.float32", "avgpool", _lines, packing.avgpool, exact=False),
        *both("globalavgpool.float32", "globalavgpool", _sixteen, exact=False),
        *both("quantize.float32", "quantize", _pieces, packing.quantize, needs=(doubles(device),)),
    )


def doubles(device: Device) -> Need:
    """float64 arithmetic."""
    return lambda case: None if device.doubles else f"{device.name} has no float64 arithmetic"


def _both(with_doubles: int, name: str, function: str, size: Callable[[int], Size], pack: Pack | None = None,
          needs: tuple[Need, ...] = (), **fields: Any) -> list[Kernel]:  # fmt: skip
    """The same function for blocked channels and for nchw."""
    found = []
    for variant, lanes, layout, only in (("blocked", V, LANES, (image,)), ("planar", 1, "nchw", ())):
        launch = alone("pointwise_cpu", function, size(lanes), LANES=lanes, DOUBLES=with_doubles)
        packed = {} if pack is None else {"pack": partial(pack, lanes)}
        needed: tuple[Need, ...] = (*only, *needs)
        found.append(row(f"{name}.{variant}", launch, "vectors", needs=needed, layouts=(layout, layout), blocks=(V,),
                         **packed, **fields))  # fmt: skip
    return found


def _turned(name: str) -> Kernel:
    def size(case: Case) -> tuple[int, ...]:
        n, c, h, w = case.shape
        return -(-h * w // 64), n * blocks(c)

    launch = alone("reorder_cpu", f"reorder_{name}", size)
    across = (between("nchw", LANES),)
    return row(f"reorder.{name}.turned", launch, "16 x 16 numbers at a time", needs=across, blocks=(V,))


def _numbers(lanes: int, shape: tuple[int, ...]) -> int:
    n, c, *pixels = shape
    return n * blocks(c, lanes) * lanes * math.prod(pixels)


def _pieces(lanes: int) -> Size:
    return lambda case: (-(-_numbers(lanes, case.inputs[0]) // PIECE),)


def _planes(lanes: int) -> Size:
    return lambda case: (_numbers(lanes, case.shape[:2]) // lanes,)


def _sixteen(lanes: int) -> Size:
    """Sixteen planes of nchw, one of blocked channels."""
    return lambda case: (-(-_numbers(lanes, case.shape[:2]) // 16),)


def _lines(lanes: int) -> Size:
    """Output rows of a blocked plane; a whole one of nchw."""
    return lambda case: (_numbers(lanes, case.shape[: 3 if lanes > 1 else 2]) // lanes,)
