"""What planning has freed, given back to the system: the holes between packed weights are too small for running."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Give free pages back, where the C library can (glibc)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))
