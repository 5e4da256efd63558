"""C kernels with OpenMP: the rows, what each needs, and the table that one call of rs_run walks.

The C sources lie in accel/openmp and are compiled on first use for the machine at hand. V below is the number of
float32 in a vector there (16 with AVX-512), and nchw<V>c the blocked layout that most kernels prefer.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from refstack.backends import Step, build, packing
from refstack.errors import BackendUnavailable
from refstack.formats import Array
from refstack.graph import Node
from refstack.kernels import Case, Kernel, Need, Reorder, layout_block
from refstack.ops import Conv2d, Window

NAME = "openmp"
FALLBACK: tuple[str, ...] = ()

_ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2}
_forked = False


def _after_fork() -> None:
    """libgomp's threads do not survive a fork and waiting for them hangs; one thread needs none of them."""
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


class Args(ctypes.Structure):
    """rs_args of rs.h, field for field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "y", "scratch", "bias", "pack")),
        *((name, ctypes.c_int64) for name in "nchwkpqrsg"),
        ("st", ctypes.c_int64 * 2),
        ("pd", ctypes.c_int64 * 4),
        ("dl", ctypes.c_int64 * 2),
        *((name, ctypes.c_int64) for name in ("activation", "inputs", "itemsize", "x_block", "y_block", "to_int8")),
    ]


class Entry(ctypes.Structure):
    """rs_step of rs.h."""

    _fields_ = [("fn", ctypes.c_void_p), ("args", ctypes.c_void_p)]


def unavailable() -> str | None:
    """None, or that there is no C compiler. Compiles nothing."""
    try:
        build.compiler()
    except BackendUnavailable as error:
        return str(error)
    return None


def sources() -> Path:
    """The folder of C files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "accel" / "openmp"
    return inside if inside.is_dir() else package.parent / "accel" / "openmp"


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels."""
    folder = sources()
    loaded = build.library(sorted(folder.glob("*.c")), sorted(folder.glob("*.h")))
    loaded.rs_run.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    loaded.rs_run.restype = None
    assert loaded.rs_args_bytes() == ctypes.sizeof(Args), "rs_args in rs.h and Args in openmp.py differ"
    return loaded


def lower(steps: Sequence[Step], threads: int) -> Callable[[], None]:
    """One C call and one parallel region for all steps. Pointers are taken here, so the arrays must stay in place."""
    loaded = library()
    table = (Entry * max(1, len(steps)))()
    alive: list[Any] = [steps, table]  # ctypes does not keep what it points to
    for entry, step in zip(table, steps, strict=False):
        args, inputs, pack = _args(step)
        alive += (args, inputs, pack)
        entry.fn = ctypes.cast(getattr(loaded, step.kernel.run), ctypes.c_void_p)
        entry.args = ctypes.addressof(args)
    call, address, count = loaded.rs_run, ctypes.addressof(table), len(steps)

    def run(alive: list[Any] = alive) -> None:
        call(address, count, 1 if _forked else threads)

    return run


def _args(step: Step) -> tuple[Args, Any, Any]:
    case, op, packed = step.case, step.case.op, dict(step.packed)
    bias = packed.pop("bias", None)
    inputs = (ctypes.c_void_p * len(step.inputs))(*(x.ctypes.data for x in step.inputs))
    pack = (ctypes.c_void_p * max(1, len(packed)))(*(array.ctypes.data for array in packed.values()))
    (n, c, h, w), (_, k, p, q) = ((*shape, 1, 1)[:4] for shape in (case.inputs[0], case.shape))
    args = Args(
        x=ctypes.addressof(inputs), y=step.output.ctypes.data, scratch=step.scratch.ctypes.data,
        bias=None if bias is None else bias.ctypes.data, pack=ctypes.addressof(pack),
        n=n, c=c, h=h, w=w, k=k, p=p, q=q, r=1, s=1, g=getattr(op, "groups", 1),
        activation=_ACTIVATIONS[getattr(op, "activation", None)], inputs=len(step.inputs),
        itemsize=step.inputs[0].itemsize, x_block=_block(step.kernel.layouts[0]), y_block=_block(step.kernel.layouts[1]),
        to_int8=step.output.dtype == "int8",
    )  # fmt: skip
    if isinstance(op, Window):
        args.r, args.s = op.kernel
        args.st[:], args.pd[:], args.dl[:] = op.stride, op.padding, op.dilation
    if isinstance(op, Reorder):
        args.x_block, args.y_block = _block(op.source), _block(op.target)
    return args, inputs, pack


def _block(layout: str) -> int:
    return 1 if layout == "nchw" else layout_block(layout)


# What kernels need: None, or the reason why not in plain words.


def one_group(case: Case) -> str | None:
    groups = cast(Conv2d, case.op).groups
    return None if groups == 1 else f"groups is {groups}, this kernel needs 1"


def depthwise(case: Case) -> str | None:
    op, c = cast(Conv2d, case.op), case.inputs[0][1]
    if op.groups == c == op.out_channels:
        return None
    return f"groups is {op.groups} with c={c} and k={op.out_channels}, this kernel needs them equal (depthwise)"


def stride_at_most(most: int) -> Need:
    def need(case: Case) -> str | None:
        stride = max(cast(Conv2d, case.op).stride)
        return None if stride <= most else f"stride is {stride}, this kernel needs at most {most}"

    return need


def small_map(case: Case) -> str | None:
    op, (_, _, h, w), (_, _, p, q) = cast(Conv2d, case.op), case.inputs[0], case.shape
    if op.kernel != (3, 3) or op.padding != (1, 1, 1, 1) or op.dilation != (1, 1):
        return f"kernel {op.kernel}, padding {op.padding}, dilation {op.dilation}; this kernel needs 3x3, 1 and 1"
    if op.stride not in ((1, 1), (2, 2)) or p != q or p not in (2, 4) or (h, w) != (p * op.stride[0], p * op.stride[0]):
        return f"output is {p}x{q} at stride {op.stride}, this kernel needs 2x2 or 4x4 at stride 1 or 2"
    return None


def offsets_fit(case: Case) -> str | None:
    numbers = planes(1, case) // 4
    return None if numbers < 2**31 else f"the planes hold {numbers} numbers, this kernel counts them in int32"


def density_at_most(most: float) -> Need:
    def need(case: Case) -> str | None:
        return None if case.density <= most else f"density is {case.density:.2f}, this kernel is for at most {most}"

    return need


def vector_registers(v: int) -> Need:
    """A whole 4x4 map needs 16 accumulators beside the weights."""
    return lambda case: None if v == 16 else "this kernel needs 32 vector registers (AVX-512)"


def channels_below(limit: int) -> Need:
    def need(case: Case) -> str | None:
        c = case.inputs[0][1]
        return None if c < limit else f"c is {c}, this kernel is for fewer than {limit} channels"

    return need


def image(case: Case) -> str | None:
    axes = len(case.inputs[0])
    return None if axes == 4 else f"input has {axes} axes, a blocked layout needs 4"


def whole_blocks(v: int) -> Need:
    """All inputs but the last must fill their blocks, or lanes of zeros would end up between channels."""

    def need(case: Case) -> str | None:
        for i, shape in enumerate(case.inputs[:-1]):
            if shape[1] % v:
                return f"input {i} has {shape[1]} channels, this kernel needs a multiple of {v}"
        return None

    return need


def between(*layouts: str) -> Need:
    def need(case: Case) -> str | None:
        op = cast(Reorder, case.op)
        if op.source != op.target and "nchw" in (op.source, op.target) and {op.source, op.target} <= set(layouts):
            return None
        return f"layouts are {op.source} and {op.target}, this kernel goes between {' and '.join(layouts)}"

    return need


# Working memory.


def padded_image(v_in: int, case: Case) -> int:
    """One image whose rows are padded left and right."""
    op, (_, c, h, w) = cast(Conv2d, case.op), case.inputs[0]
    _, left, _, right = op.padding
    return 4 * -(-c // v_in) * v_in * h * (left + w + right) if left or right else 0


def framed_image(lanes: int, case: Case) -> int:
    """One int8 image, padded on all sides."""
    op, (_, c, h, w) = cast(Conv2d, case.op), case.inputs[0]
    top, left, bottom, right = op.padding
    return -(-c // lanes) * lanes * (top + h + bottom) * (left + w + right)


def offset_vectors(case: Case) -> int:
    """The inputs of an int8 linear layer, each rounded up to four bytes."""
    n, c = case.inputs[0]
    return n * -(-c // 4) * 4


def planes(v: int, case: Case) -> int:
    """One image as rs_planes.h lays it out, and a vector that may be read behind it."""
    op, (_, c, h, w) = cast(Conv2d, case.op), case.inputs[0]
    if op.kernel == op.stride == (1, 1) and not any(op.padding) and h * w % v == 0:
        return 0
    return 4 * (c * packing.Planes.of(case).channel + v)


def kernels() -> tuple[Kernel, ...]:
    """The rows, best first for every op and format. Compiles the library, which knows the vector width."""
    v = int(library().rs_vector_width())
    return (*_convolutions(v), *_linears(v), *_others(v))


def _row(name: str, run: str, summary: str, **fields: Any) -> Kernel:
    op, format, variant = name.split(".")
    return Kernel(op, format, NAME, variant, run, summary=summary, **fields)


def _convolutions(v: int) -> tuple[Kernel, ...]:
    lanes = f"nchw{v}c"
    return (
        _row(
            "conv2d.dense.stem", "rs_conv2d_dense_blocked", "register tiles; few channels in, blocked channels out",
            needs=(one_group, stride_at_most(2), channels_below(v)), layouts=("nchw", lanes),
            pack=partial(packing.blocked, v, 1), scratch=partial(padded_image, 1), blocks=(v, 4, 6, 8, 12),
        ),
        _row(
            "conv2d.dense.map", "rs_conv2d_dense_map", "a whole map of 4x4 or 2x2 in registers, no tap in padding",
            needs=(one_group, small_map, vector_registers(v)), layouts=(lanes, lanes),
            pack=partial(packing.small_map, v), blocks=(v, 2 * v, 4 * v),
        ),
        _row(
            "conv2d.dense.blocked", "rs_conv2d_dense_blocked", "register tiles of 2 or 4 blocks x up to 12 pixels",
            needs=(one_group, stride_at_most(2)), layouts=(lanes, lanes),
            pack=partial(packing.blocked, v, v), scratch=partial(padded_image, v), blocks=(v, 4, 6, 8, 12),
        ),
        _row(
            "conv2d.dense.depthwise", "rs_conv2d_dense_depthwise", "vectors of channels, up to 8 pixels in registers",
            needs=(depthwise,), layouts=(lanes, lanes), pack=partial(packing.depthwise, v), blocks=(v, 2, 8),
        ),
        _row("conv2d.dense.direct", "rs_conv2d_dense_direct", "the plain loop", pack=packing.direct),
        _row(
            "conv2d.csr.planar", "rs_conv2d_csr_planar", "a broadcast and a few vectors of pixels for each stored weight",
            needs=(one_group, offsets_fit), pack=partial(packing.csr_planar, v), scratch=partial(planes, v), blocks=(v, 2, 4, 8),
        ),
        _row("conv2d.csr.direct", "rs_conv2d_csr_direct", "the plain loop", pack=packing.csr_direct),
        _row(
            "conv2d.ternary.map", "rs_conv2d_ternary_map", "a whole map of 4x4 or 2x2 in registers, 2-bit codes",
            needs=(one_group, small_map, vector_registers(v)), layouts=(lanes, lanes),
            pack=partial(packing.ternary_map, v), blocks=(v, 2 * v, 4 * v),
        ),
        _row(
            "conv2d.ternary.planar", "rs_conv2d_ternary_planar", "two lists of taps, no multiplications",
            needs=(one_group, offsets_fit, density_at_most(0.25)), pack=partial(packing.ternary_planar, v),
            scratch=partial(planes, v), blocks=(v, 2, 4, 8),
        ),
        _row(
            "conv2d.ternary.stem", "rs_conv2d_ternary_blocked", "dense register tiles from 2-bit codes; few channels in",
            needs=(one_group, stride_at_most(2), channels_below(v)), layouts=("nchw", lanes),
            pack=partial(packing.ternary_blocked, v, 1), scratch=partial(padded_image, 1), blocks=(v, 4, 6, 8, 12),
        ),
        _row(
            "conv2d.ternary.blocked", "rs_conv2d_ternary_blocked", "dense register tiles from 2-bit codes",
            needs=(one_group, stride_at_most(2)), layouts=(lanes, lanes),
            pack=partial(packing.ternary_blocked, v, v), scratch=partial(padded_image, v), blocks=(v, 4, 6, 8, 12),
        ),
        _row("conv2d.ternary.direct", "rs_conv2d_csr_direct", "the plain sparse loop", pack=packing.csr_direct),
        _row(
            "conv2d.int8.stem", "rs_conv2d_int8_blocked", "register tiles of dot products; few channels in, blocked out",
            needs=(one_group, stride_at_most(2), channels_below(v)), layouts=("nchw", lanes),
            pack=partial(packing.int8_blocked, v, 4), scratch=partial(framed_image, 4), blocks=(v, 4, 6, 8, 12),
        ),
        _row(
            "conv2d.int8.blocked", "rs_conv2d_int8_blocked", "register tiles of dot products of four bytes",
            needs=(one_group, stride_at_most(2)), layouts=(lanes, lanes),
            pack=partial(packing.int8_blocked, v, v), scratch=partial(framed_image, v), blocks=(v, 4, 6, 8, 12),
        ),
        _row(
            "conv2d.int8.depthwise", "rs_conv2d_int8_depthwise", "vectors of channels, 4 pixels in registers",
            needs=(depthwise,), layouts=(lanes, lanes), pack=partial(packing.int8_depthwise, v), blocks=(v, 4),
        ),
        _row("conv2d.int8.direct", "rs_conv2d_int8_direct", "the plain loop", pack=packing.int8_direct),
    )  # fmt: skip


def _linears(v: int) -> tuple[Kernel, ...]:
    return (
        _row(
            "linear.dense.blocked", "rs_linear_dense_blocked", "a vector of features at a time, weights read once",
            pack=partial(packing.linear_blocked, v), blocks=(v, 4),
        ),
        _row("linear.csr.direct", "rs_linear_csr_direct", "a stored weight at a time", pack=packing.csr_linear, blocks=(4,)),
        _row(
            "linear.ternary.blocked", "rs_linear_ternary_blocked", "a vector of features from each word of 2-bit codes",
            pack=partial(packing.ternary_linear, v), blocks=(v, 4),
        ),
        _row(
            "linear.int8.blocked", "rs_linear_int8_blocked", "dot products of four bytes, a vector of features at a time",
            pack=partial(packing.int8_linear, v), scratch=offset_vectors, blocks=(v, 4, 16),
        ),
    )  # fmt: skip


def _others(v: int) -> tuple[Kernel, ...]:
    """Layers without weights, each for the blocked layout and for nchw."""
    lanes = f"nchw{v}c"
    rows: list[Kernel] = []

    def both(
        name: str, run: str, summary: str, pack: Callable[[int, Node, Case], dict[str, Array]], **fields: Any
    ) -> None:
        needs = fields.pop("needs", ())
        rows.append(
            _row(f"{name}.blocked", run, f"{summary}, blocked channels", needs=(image, *needs), layouts=(lanes, lanes),
                 pack=partial(pack, v), blocks=(v,), **fields),
        )  # fmt: skip
        rows.append(_row(f"{name}.planar", run, f"{summary}, plane by plane", pack=partial(pack, 1), **fields))

    both("maxpool.float32", "rs_maxpool_float32", "largest of each window", packing.nothing)
    both("maxpool.int8", "rs_maxpool_int8", "largest of each window", packing.nothing)
    both("avgpool.float32", "rs_avgpool_float32", "mean of each window", packing.avgpool, exact=False)
    both("globalavgpool.float32", "rs_globalavgpool_float32", "mean of each plane", packing.nothing, exact=False)
    both("relu.float32", "rs_relu_float32", "one pass", packing.nothing)
    both("add.float32", "rs_add_float32", "one pass", packing.nothing)
    both("quantize.float32", "rs_quantize_float32", "one pass; NaN gives -128", packing.quantize)
    both("batchnorm.dense", "rs_batchnorm_dense", "one pass", packing.batchnorm, exact=False)
    for dtype, itemsize in (("float32", 4), ("int8", 1)):
        join = partial(packing.concat, itemsize)
        rows.append(
            _row(f"concat.{dtype}.blocked", "rs_concat", "one copy an input, blocked channels",
                 needs=(image, whole_blocks(v)), layouts=(lanes, lanes), pack=partial(join, v), blocks=(v,)),
        )  # fmt: skip
        rows.append(_row(f"concat.{dtype}.planar", "rs_concat", "one copy an input", pack=partial(join, 1)))
        rows.append(_row(f"flatten.{dtype}.planar", "rs_flatten", "one copy"))
        rows.append(
            _row(f"reorder.{dtype}.block", "rs_reorder", "a row of one block of channels at a time",
                 needs=(between("nchw", lanes),), blocks=(v,)),
        )  # fmt: skip
    rows.append(_row("softmax.float32.planar", "rs_softmax_float32", "shifted by the largest", exact=False))
    return tuple(rows)
