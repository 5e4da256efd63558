"""Memory of plans: weights on huge pages, and what planning has freed given back to the system.

Weights stream past, one after the other, for each image. On pages of 4 KiB the processor's prefetchers stop at every
page, and its list of pages is shorter than a network.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

import numpy as np

from refstack.formats import Array
from refstack.memory import align

HUGE = 2**21
"""Bytes of a huge page."""
PIECE = 2**26
"""Bytes that a shelf asks for at once; what is never touched takes no memory."""
COLLAPSE = 25
"""MADV_COLLAPSE of Linux 6.1, which Python has no name for."""


class Shelf:
    """Copies of arrays, one behind the other, each from the start of a cache line on."""

    def __init__(self) -> None:
        self.room: mmap.mmap | None = None
        self.start, self.piece, self.used = 0, np.empty(0, np.uint8), 0

    def put(self, array: Array) -> Array:
        """The same values in C order.   MemoryError when there is no room"""
        size = align(array.nbytes)
        if self.used + size > self.piece.size:
            self.close()
            self._open(max(size, PIECE))
        place = self.piece[self.used : self.used + array.nbytes].view(array.dtype).reshape(array.shape)
        place[...] = array
        self.used += size
        return place

    def close(self) -> None:
        """Gather the pages that are full into huge ones, where the system can (Linux 6.1)."""
        full = self.used // HUGE * HUGE
        if self.room and full:
            with suppress(OSError, AttributeError):
                self.room.madvise(COLLAPSE, self.start, full)

    def _open(self, nbytes: int) -> None:
        try:
            self.room = mmap.mmap(-1, nbytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(str(error)) from error
        whole = np.frombuffer(self.room, np.uint8)
        self.start = -whole.ctypes.data % HUGE
        self.piece, self.used = whole[self.start :], 0


def trim() -> None:
    """Give free pages back, where the C library can (glibc)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))
