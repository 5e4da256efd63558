"""The OpenCL rows for processors: heavy work-items on vectors of 16 lanes (accel/opencl/rs_cpu.cl).

V is 16 on every device: compilers cut a vector into what the processor has. Weights are packed as for OpenMP kernels
of that width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from refstack.backends import packing
from refstack.backends.opencl.devices import Device
from refstack.backends.opencl.segment import Launch
from refstack.backends.openmp_rows import (
    channels_at_least,
    channels_below,
    depthwise,
    image,
    one_group,
    pixels_at_most,
    small_map,
    tiles_at_least,
    window_3x3,
)
from refstack.kernels import Case, Kernel, Need
from refstack.ops import Conv2d
from refstack.winograd import F2, F4

V = 16
LANES = f"nchw{V}c"

DENSE, HALF, TERNARY = 0, 1, 2
"""FORMAT of rs_tile_cpu.cl."""

Size = Callable[[Case], tuple[int, ...]]


def blocks(channels: int) -> int:
    """Blocks of V."""
    return -(-channels // V)


def groups(most: int, k: int) -> int:
    """How many groups of blocks share out k channels (rs_span of rs_cpu.cl)."""
    outs = blocks(k)
    return outs // most + outs % most // 2 + outs % most % 2


def doubles(device: Device) -> Need:
    """float64 arithmetic."""
    return lambda case: None if device.doubles else f"{device.name} has no float64 arithmetic"


def alone(source: str, function: str, size: Size, **defines: int) -> Launch:
    """Work-items that are groups of their own."""
    return Launch(source, lambda case: (*size(case), 1, 1)[:3], (1, 1, 1), lambda case: defines, function)


def rows(device: Device) -> tuple[Kernel, ...]:
    """Best first for every op and format."""
    dense = _dense()
    return (*dense, *_half(), *_ternary(), *_linear(), *_unpacked(dense), *_pointwise(device))


def _row(name: str, run: Launch | tuple[Launch, ...], summary: str, **fields: Any) -> Kernel:
    op, format, variant = name.split(".")
    return Kernel(op, format, "", f"cpu_{variant}", run, summary=summary, **fields)


# Register tiles.


def _copied(case: Case) -> bool:
    """Whether rows are padded or strided, so that they are copied first."""
    op = cast(Conv2d, case.op)
    return bool(op.padding[1] or op.padding[3] or op.stride[1] > 1)


def copied_rows(v_in: int, case: Case) -> int:
    """Bytes of the copies; a few where there are none, since an argument needs a buffer."""
    op, (n, c, h, w) = cast(Conv2d, case.op), case.inputs[0]
    _, left, _, right = op.padding
    residues = op.stride[1] if op.kernel[1] > 1 else 1
    row = residues * -(-(left + w + right) // op.stride[1])
    return 4 * n * -(-c // v_in) * v_in * h * row if _copied(case) else 64


def _tiles(v_in: int, format: int) -> tuple[Launch, ...]:
    def pad(case: Case) -> tuple[int, ...]:
        n, c, h, _ = case.inputs[0]
        return (n * -(-c // v_in) * h if _copied(case) else 0,)

    def conv(case: Case) -> tuple[int, ...]:
        op, (n, k, p, q) = cast(Conv2d, case.op), case.shape
        flat = op.kernel == op.stride == (1, 1) and not any(op.padding)
        return -(-p * q // 48) if flat else p, n, groups(packing.blocks_at_once(V, case), k)

    return tuple(
        alone("conv2d_blocked_cpu", function, size, VIN=v_in, FORMAT=format)
        for function, size in (("pad", pad), ("conv", conv))
    )


def _blocked(name: str, summary: str, v_in: int, format: int, pack: Callable[..., packing.Packed]) -> Kernel:
    source, few = (LANES, ()) if v_in == V else ("nchw", (channels_below(V),))
    return _row(
        name, _tiles(v_in, format), summary, needs=(one_group, *few), layouts=(source, LANES), pack=pack,
        scratch=partial(copied_rows, v_in), blocks=(V, 2, 4, 8, 12), nonfinite="spreads",
    )  # fmt: skip


def _dense() -> tuple[Kernel, ...]:
    return (
        _blocked(
            "conv2d.dense.stem", "register tiles; few plain channels in", 1, DENSE, partial(packing.blocked, V, 1)
        ),
        *(_winograd(m) for m in (4, 2)),
        _map("conv2d.dense.map", DENSE, partial(packing.small_map, V)),
        _blocked("conv2d.dense.blocked", "register tiles", V, DENSE, partial(packing.blocked, V, V)),
        _depthwise("conv2d.dense.depthwise"),
    )


def _half() -> tuple[Kernel, ...]:
    """Where few pixels share a weight its bytes are what takes time; elsewhere the rows of dense weights run."""
    few = _blocked(
        "conv2d.half.blocked16", "register tiles, two bytes a weight", V, HALF, partial(packing.half_blocked, V)
    )
    return (
        _map("conv2d.half.map16", HALF, partial(packing.half_map, V)),
        replace(few, needs=(*few.needs, pixels_at_most(16))),
    )


def _ternary() -> tuple[Kernel, ...]:
    decoded = replace(_depthwise("conv2d.ternary.depthwise"), nonfinite="spreads")
    blocked, stem = (partial(packing.ternary_blocked, V, v_in) for v_in in (V, 1))
    return (
        _map("conv2d.ternary.map", TERNARY, partial(packing.ternary_map, V)), decoded,
        _blocked("conv2d.ternary.stem", "register tiles from 2-bit codes; few plain channels in", 1, TERNARY, stem),
        _blocked("conv2d.ternary.blocked", "register tiles from 2-bit codes", V, TERNARY, blocked),
    )  # fmt: skip


def _map(name: str, format: int, pack: Callable[..., packing.Packed]) -> Kernel:
    """Four maps of a case: 4x4 or 2x2 outputs, at stride 1 or 2."""

    def size(case: Case) -> tuple[int, ...]:
        n, k, p, _ = case.shape
        return n, groups(1 if p == 4 else 4, k)

    def defines(case: Case) -> dict[str, int]:
        return {"FORMAT": format, "P": case.shape[2], "ST": cast(Conv2d, case.op).stride[0]}

    launch = replace(alone("conv2d_map_cpu", "", size), defines=defines)
    return _row(
        name, launch, "a whole 4x4 or 2x2 map in registers, nothing on padding", needs=(one_group, small_map),
        layouts=(LANES, LANES), pack=pack, blocks=(V, 2 * V, 4 * V), nonfinite="spreads",
    )  # fmt: skip


def _linear() -> tuple[Kernel, ...]:
    def one(name: str, format: int, pack: Callable[..., packing.Packed], **fields: Any) -> Kernel:
        launch = alone("linear_cpu", "", lambda case: (blocks(case.shape[1]),), FORMAT=format)
        return _row(
            name, launch, "a vector of features at a time, weights read once", pack=pack, blocks=(V, 4), **fields
        )

    return (
        one("linear.dense.blocked", DENSE, partial(packing.linear_blocked, V)),
        one("linear.half.blocked16", HALF, lambda node, case: packing.half(packing.linear_blocked(V, node, case))),
        one("linear.ternary.blocked", TERNARY, partial(packing.ternary_linear, V), nonfinite="spreads"),
    )


def _unpacked(listed: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """Half becomes dense where no row of its own reads it as it is."""
    formats = {"dense": "half"}
    return tuple(replace(row, format=formats[row.format]) for row in listed if row.format in formats)


def _winograd(m: int) -> Kernel:
    algorithm = {4: F4, 2: F2}[m]
    points = (m + 2) ** 2

    def tiles(case: Case) -> int:
        return case.shape[0] * packing.tile_grid(m, case)[0]

    def rows(channels: Callable[[Case], int]) -> Size:
        return lambda case: (case.shape[0] * -(-case.shape[2] // m), blocks(channels(case)))

    def scratch(case: Case) -> int:
        return 4 * points * tiles(case) * V * (blocks(case.inputs[0][1]) + blocks(case.shape[1]))

    sizes: dict[str, Size] = {
        "transform": rows(lambda case: case.inputs[0][1]),
        "multiply": lambda case: (-(-tiles(case) // 48), groups(2, case.shape[1]), points),
        "finish": rows(lambda case: case.shape[1]),
    }
    return _row(
        f"conv2d.dense.winograd{m}", tuple(alone("conv2d_winograd_cpu", *each, M=m) for each in sizes.items()),
        f"F({m},3): {points} products for {9 * m * m}",
        needs=(one_group, window_3x3, channels_at_least(V), tiles_at_least(8, m)), layouts=(LANES, LANES),
        pack=partial(packing.winograd, V, algorithm), scratch=scratch, blocks=(V, 2 * V, m, 2 * m), exact=False,
        algorithm=f"winograd{m}", nonfinite="spreads",
    )  # fmt: skip


def _depthwise(name: str, **fields: Any) -> Kernel:
    def size(case: Case) -> tuple[int, ...]:
        n, c, p, q = case.shape
        return -(-p // -(-32 // q)), n * blocks(c)

    return _row(
        name, alone("conv2d_depthwise_cpu", "conv2d_depthwise_cpu", size), "vectors of channels, 8 pixels in registers",
        needs=(depthwise,), layouts=(LANES, LANES), pack=partial(packing.depthwise, V), blocks=(V, 2, 4, 8), **fields,
    )  # fmt: skip


# Layers without weights, for blocked channels and for nchw.

PIECE = 1024
"""Numbers of a work-item, a multiple of V."""


def _numbers(lanes: int, shape: tuple[int, ...]) -> int:
    n, c, *pixels = shape
    return n * -(-c // lanes) * lanes * math.prod(pixels)


def _pieces(lanes: int) -> Size:
    return lambda case: (-(-_numbers(lanes, case.inputs[0]) // PIECE),)


def _planes(lanes: int) -> Size:
    return lambda case: (_numbers(lanes, case.shape[:2]) // lanes,)


def _rows(lanes: int) -> Size:
    return lambda case: (_numbers(lanes, case.shape[:3]) // lanes,)


def _pointwise(device: Device) -> tuple[Kernel, ...]:
    def both(name: str, function: str, size: Callable[[int], Size], pack: Callable[..., packing.Packed] | None = None,
             needs: tuple[Need, ...] = (), **fields: Any) -> list[Kernel]:  # fmt: skip
        found = []
        for lanes, layout, only in ((V, LANES, (image,)), (1, "nchw", ())):
            launch = alone("pointwise_cpu", function, size(lanes), LANES=lanes, DOUBLES=int(device.doubles))
            packed = {} if pack is None else {"pack": partial(pack, lanes)}
            variant = f"{name}.{'blocked' if lanes > 1 else 'planar'}"
            found.append(_row(variant, launch, "vectors", needs=(*only, *needs), layouts=(layout, layout),
                              blocks=(V,), **packed, **fields))  # fmt: skip
        return found

    return (
        *both("relu.float32", "relu", _pieces, in_place=True),
        *both("add.float32", "add", _pieces, in_place=True),
        *both("batchnorm.dense", "batchnorm", _planes, packing.batchnorm, exact=False, in_place=True),
        *both("maxpool.float32", "maxpool_float32", _rows),
        *both("maxpool.int8", "maxpool_int8", _rows),
        *both("avgpool.float32", "avgpool", _rows, packing.avgpool, exact=False),
        *both("globalavgpool.float32", "globalavgpool", _planes, exact=False),
        *both("quantize.float32", "quantize", _pieces, packing.quantize, needs=(doubles(device),)),
    )
