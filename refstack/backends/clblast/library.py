"""CLBlast by its C interface: one matrix product, and the parameters of its kernels.

Source      https://github.com/CNugteren/CLBlast, include/clblast_c.h
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from refstack.backends import opencl
from refstack.backends.clblast.products import Parameters, Product
from refstack.errors import BackendUnavailable, ResourceError, UsageError

FILE = "libclblast.so.1"
FLOAT32 = 32
_LAYOUT = [c_int, c_int, c_int, c_size_t, c_size_t, c_size_t]
_SGEMM = [
    *_LAYOUT, c_float, *[c_void_p, c_size_t, c_size_t] * 2, c_float, c_void_p, c_size_t, c_size_t,
    POINTER(c_void_p), POINTER(c_void_p), c_void_p,
]  # fmt: skip
_ROOM = [*_LAYOUT, *[c_size_t] * 6, POINTER(c_void_p), POINTER(c_size_t)]
_OVERRIDE = [c_void_p, c_char_p, c_int, c_size_t, POINTER(c_char_p), POINTER(c_size_t)]


@cache
def library() -> Any:
    """The loaded library. BackendUnavailable if there is none."""
    try:
        loaded = ctypes.CDLL(FILE)
        functions = {
            "CLBlastSgemmWithTempBuffer": _SGEMM, "CLBlastSGemmTempBufferSize": _ROOM,
            "CLBlastOverrideParameters": _OVERRIDE,
        }  # fmt: skip
        for name, types in functions.items():
            getattr(loaded, name).argtypes = types
    except (OSError, AttributeError) as error:
        raise BackendUnavailable(f"{FILE} is not here ({error}); try  apt install libclblast1") from None
    return loaded


def unavailable() -> str | None:
    """Why a backend that needs it cannot run, or None."""
    reason = opencl.unavailable()
    if reason is None:
        try:
            library()
        except BackendUnavailable as error:
            return str(error)
    return reason


def version() -> str:
    """The name of the file that was loaded, which has the version: libclblast.so.1.5.3"""
    library()
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libclblast" in line)
    return os.path.basename(os.path.realpath(next(mapped, FILE)))


def room(queue: Any, product: Product, offsets: tuple[int, int, int]) -> int:
    """Bytes that this product takes for copies of its matrices."""
    (a, b), found = product.transpose, c_size_t()
    pairs = [number for pair in zip(offsets, product.ld, strict=True) for number in pair]
    sizes = (product.m, product.n, product.k, *pairs)
    handle = byref(c_void_p(queue.int_ptr))
    _check(library().CLBlastSGemmTempBufferSize(product.layout, a, b, *sizes, handle, byref(found)), product)
    return found.value


def gemm(
    queue: Any, product: Product, buffers: tuple[Any, Any, Any], offsets: tuple[int, int, int], copies: Any
) -> int:
    """Enqueue c = a * b. The handle of an event, which is the caller's.

    Args        offsets     numbers of each buffer before its matrix        copies      a buffer of `room` bytes
    """
    (a, b), p, event = product.transpose, product, c_void_p()
    (x, y, z), (i, j, o), (ldx, ldy, ldz) = (each.int_ptr for each in buffers), offsets, p.ld
    handle = byref(c_void_p(queue.int_ptr))
    done = library().CLBlastSgemmWithTempBuffer(
        p.layout, a, b, p.m, p.n, p.k, 1.0, x, i, ldx, y, j, ldy, 0.0, z, o, ldz, handle, byref(event), copies.int_ptr
    )
    _check(done, product)
    assert event.value is not None
    return event.value


def _check(status: int, what: object) -> None:
    if status != 0:
        raise ResourceError(f"CLBlast: {what} failed with status {status} (clblast_c.h); choose another --device")


_override: list[Parameters] = []


def use(device: Any, parameters: Parameters) -> None:
    """Settle the parameters of this process: the library has one set of them, and no way back to its own.

    Args        parameters  {}: the library's own
    Raises      UsageError  another set is in use
    """
    if (_override or [{}])[0] == parameters:
        return
    if _override:
        raise UsageError(
            "CLBlast: other parameters are in use, and a process has one set of them: run clblast and clblast_tuned in "
            "processes of their own, clblast first where it has to be one"
        )
    for kernel, values in parameters.items():
        names = (c_char_p * len(values))(*(name.encode() for name in values))
        numbers = (c_size_t * len(values))(*values.values())
        _check(
            library().CLBlastOverrideParameters(
                device.int_ptr, kernel.encode(), FLOAT32, len(values), names, numbers
            ),
            f"{kernel} with {dict(values)}",
        )  # fmt: skip
    _override.append(parameters)
