"""What the machine can do at best, measured: fused multiply-adds on registers, and reading memory.

flops = 2 * multiply-adds / s        read_bytes_per_s = bytes read / s, from a buffer of so many bytes, again and again

A large buffer (BUFFER_BYTES) comes from memory, a smaller one from the cache that holds it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache

import numpy as np

from refstack.backends import openmp
from refstack.errors import CheckFailed

BUFFER_BYTES = 128 << 20
PAGE = 4096
ITERATIONS = 1 << 21
REPEATS = 5


def measure(threads: int, nbytes: int = BUFFER_BYTES) -> dict[str, float | int]:
    """The best of a few runs of each, for so many threads.

    Args        nbytes      of the buffer, rounded up to whole pages
    Raises      BackendUnavailable, CompileError     there is no compiler, or it fails
    Cost        about 0.2 s and the buffer
    """
    library = _library()
    work = threads * ITERATIONS * library.rs_fma_width()
    seconds = _best(lambda: library.rs_fma_run(threads, ITERATIONS, 1.0, 1e-9))
    pages = -(-nbytes // PAGE)
    words, passes = pages * PAGE // 8, max(1, BUFFER_BYTES // (pages * PAGE))
    buffer = np.ones(words + 8, np.int64)
    start = buffer[-buffer.ctypes.data % 64 // 8 :]

    def read() -> None:
        if library.rs_read_run(threads, start.ctypes.data, pages * PAGE, passes) != passes * words:
            raise CheckFailed("roofs: the sum over the buffer is wrong")

    return {
        "threads": threads,
        "flops": 2 * work / seconds,
        "read_bytes_per_s": passes * pages * PAGE / _best(read),
        "read_bytes": pages * PAGE,
    }


def _best(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


@cache
def _library() -> ctypes.CDLL:
    library, i64 = openmp.library(), ctypes.c_int64
    library.rs_fma_width.restype, library.rs_fma_width.argtypes = i64, []
    library.rs_fma_run.restype = ctypes.c_double
    library.rs_fma_run.argtypes = [i64, i64, ctypes.c_float, ctypes.c_float]
    library.rs_read_run.restype, library.rs_read_run.argtypes = i64, [i64, ctypes.c_void_p, i64, i64]
    return library
