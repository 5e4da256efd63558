"""Arrays between pages that nobody may touch: what runs past their ends, or writes where it may only read, is stopped.

    | guard page | slack |  array  | guard page |     placed at the end: one number too far is a page fault
    | guard page |  array  | slack | guard page |     placed at the start: the same before it
    | margin |  array  | margin |                     soft: nothing is stopped, `intact` tells afterwards

A page fault ends the process (SIGSEGV), so hard guards belong into a child. The slack holds a pattern that must stay.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from refstack.errors import ResourceError
from refstack.memory import ALIGNMENT

Place = Literal["end", "start", "soft"]

PATTERN = 0xA5
MARGIN = 4 * ALIGNMENT
"""Bytes on each side of a soft array."""
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2


class Guarded:
    """One array; `array` is writable until `lock`. Its address is a multiple of `align`, which may cost slack."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, place: Place = "soft", align: int = 1) -> None:
        nbytes, self._hard = math.prod(shape) * np.dtype(dtype).itemsize, place != "soft"
        if self._hard:
            self._page = mmap.PAGESIZE
            inner = max(1, -(-nbytes // self._page)) * self._page
            self._map = mmap.mmap(-1, inner + 2 * self._page)
            self._room: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)[self._page : self._page + inner]
            self._start = inner - -(-nbytes // align) * align if place == "end" else 0
            self._protect(-self._page, self._page, _PROT_NONE)
            self._protect(inner, self._page, _PROT_NONE)
        else:
            self._room = np.empty(nbytes + 2 * MARGIN + ALIGNMENT, np.uint8)
            self._start = MARGIN + -(self._room.ctypes.data + MARGIN) % ALIGNMENT
        self._stop = self._start + nbytes
        self._room[...] = PATTERN
        self.array: NDArray[Any] = self._room[self._start : self._stop].view(dtype).reshape(shape)

    def _protect(self, offset: int, length: int, rights: int) -> None:
        """mprotect, counted from the first byte of the room."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(self._room.ctypes.data + offset), ctypes.c_size_t(length), rights):
            raise ResourceError(f"cannot set up guard pages: {os.strerror(ctypes.get_errno())}; close some programs")

    def poison(self, byte: int) -> None:
        """Fill the array with one byte."""
        self._room[self._start : self._stop] = byte

    def lock(self, locked: bool = True) -> None:
        """From now on the array may only be read (a soft array stays as it is)."""
        if self._hard:
            self._protect(0, self._room.size, _PROT_READ if locked else _PROT_READ | _PROT_WRITE)

    @property
    def intact(self) -> bool:
        """Whether the bytes around the array hold what they held."""
        return bool((self._room[: self._start] == PATTERN).all() and (self._room[self._stop :] == PATTERN).all())

    def bytes(self) -> bytes:
        """The array's bytes."""
        return self._room[self._start : self._stop].tobytes()
