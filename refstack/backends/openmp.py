"""C kernels with OpenMP: compiled on first use, then a table of steps that one call of rs_run walks.

The C sources lie in accel/openmp, the rows in openmp_rows.py, the weights' layouts in packing.py and packing_sparse.py.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from refstack.backends import Step, build, compilers, openmp_rows
from refstack.errors import BackendUnavailable
from refstack.formats import Array
from refstack.kernels import Kernel, Reorder, layout_block, of_images, of_patches, patch_grid
from refstack.ops import Window

NAME = "openmp"
FALLBACK: tuple[str, ...] = ()

ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2}
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
        compilers.compiler()
    except BackendUnavailable as error:
        return str(error)
    return None


def sources() -> Path:
    """The folder of C files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "accel" / "openmp"
    return inside if inside.is_dir() else package.parent / "accel" / "openmp"


@contextmanager
def brief_spinning() -> Iterator[None]:
    """Let libgomp's threads wait for each other some 0.2 ms awake, then asleep; it reads this once, when it is loaded.

    Its own limit is many milliseconds. On a busy machine, where a thread may be waiting for one that another process
    keeps from running, that makes a network several times slower. What the user has set stands.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "3000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels."""
    folder = sources()
    with brief_spinning():
        loaded = build.library(sorted(folder.glob("*.c")), sorted(folder.glob("*.h")))
    loaded.rs_run.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    loaded.rs_run.restype = None
    assert loaded.rs_args_bytes() == ctypes.sizeof(Args), "rs_args in rs.h and Args in openmp.py differ"
    return loaded


def lower(
    steps: Sequence[Step], threads: int, outputs: Sequence[Array] | None = None,
    function: Callable[[Step], Any] | None = None,
) -> Callable[[], None]:  # fmt: skip
    """One C call and one parallel region for all steps. Pointers are taken here, so the arrays must stay in place.

    Args        function    where a step's C function comes from, if not from this library
    """
    loaded = library()
    function = function or (lambda step: getattr(loaded, step.kernel.run))
    table, every = (Entry * max(1, len(steps)))(), (Args * max(1, len(steps)))()
    alive: list[Any] = [steps, table, every]  # ctypes does not keep what it points to
    for i, step in enumerate(steps):
        every[i], pointers = _args(step)
        alive.append(pointers)
        table[i].fn = ctypes.cast(function(step), ctypes.c_void_p).value
        table[i].args = ctypes.addressof(every[i])
    call, address, count = loaded.rs_run, ctypes.addressof(table), len(steps)

    def run(alive: list[Any] = alive) -> None:
        call(address, count, 1 if _forked else threads)

    return run


def _args(step: Step) -> tuple[Args, Array]:
    """What a C function is given, and the pointers that it points to."""
    case, op, packed = step.case, step.case.op, dict(step.packed)
    bias = packed.pop("bias", None)
    pointers = np.array([array.ctypes.data for array in (*step.inputs, *packed.values())], np.uintp)
    (n, c, h, w), (_, k, p, q) = ((*shape, 1, 1)[:4] for shape in (case.inputs[0], case.shape))
    if of_images(step.kernel.layouts[0]):  # a block of images is one image of as many times the channels
        block = lanes(step.kernel.layouts[0])
        n, c, k = -(-n // block), c * block, k * block
    if of_patches(step.kernel.layouts[0]):  # and patches of an image are as many channels of a smaller one
        block = lanes(step.kernel.layouts[0])
        rows, cols = patch_grid(block)
        c, h, w, k, p, q = c * block, h // rows, w // cols, k * block, p // rows, q // cols
    args = Args(
        x=pointers.ctypes.data, y=step.output.ctypes.data, scratch=step.scratch.ctypes.data,
        bias=None if bias is None else bias.ctypes.data, pack=pointers[len(step.inputs) :].ctypes.data,
        n=n, c=c, h=h, w=w, k=k, p=p, q=q, r=1, s=1, g=getattr(op, "groups", 1),
        activation=ACTIVATIONS[getattr(op, "activation", None)], inputs=len(step.inputs),
        itemsize=step.inputs[0].itemsize, to_int8=step.output.dtype == "int8",
        x_block=lanes(step.kernel.layouts[0]), y_block=lanes(step.kernel.layouts[1]),
    )  # fmt: skip
    if isinstance(op, Window):
        args.r, args.s = op.kernel
        args.st[:], args.pd[:], args.dl[:] = op.stride, op.padding, op.dilation
    if isinstance(op, Reorder):
        args.x_block, args.y_block = lanes(op.source), lanes(op.target)
    return args, pointers


def lanes(layout: str) -> int:
    """Channels, images or patches side by side: 1 for nchw, 16 for nchw16c, nchw16n and nchw16p."""
    return 1 if layout == "nchw" else layout_block(layout)


def build_id() -> str:
    """The key of the compiled library: flags, compiler, processor. Compiles it."""
    return build.key_of(library())


@cache
def kernels() -> tuple[Kernel, ...]:
    """The rows, best first for every op and format. Compiles the library, which knows the vector width."""
    return openmp_rows.rows(NAME, int(library().rs_vector_width()))
