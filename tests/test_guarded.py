"""Arrays between guard pages: what stops, what only tells, and where they lie."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from refstack.backends.guarded import Guarded, Place
from refstack.errors import ResourceError
from refstack.worker import environment

TOUCH = """
import numpy as np
from numpy.lib.stride_tricks import as_strided
from refstack.backends.guarded import Guarded
g = Guarded((5, 7), np.float32, {place!r})
g.array[...] = 1
flat = as_strided(g.array.reshape(-1)[::-1] if {before} else g.array.reshape(-1), (36,))
print("ready", flush=True)
{act}
"""


def touched(place: Place, act: str, before: bool = False) -> int:
    """Exit status of a process that does something to a guarded array."""
    script = TOUCH.format(place=place, act=act, before=before)
    done = subprocess.run([sys.executable, "-c", script], env=environment(1), capture_output=True, text=True)
    assert done.stdout == "ready\n", done.stderr
    return done.returncode


@pytest.mark.parametrize(("place", "before"), [("end", False), ("start", True)])
@pytest.mark.parametrize("act", ["flat[35] = 1", "flat[35] + 1"])
def test_one_number_too_far_ends_the_process(place: Place, before: bool, act: str) -> None:
    assert touched(place, act, before) == -11
    assert touched(place, act.replace("35", "34"), before) == 0


@pytest.mark.parametrize("place", ["end", "start"])
def test_a_locked_array_may_be_read_only(place: Place) -> None:
    assert touched(place, "g.lock(); flat[3] = 1") == -11
    assert touched(place, "g.lock(); flat[3] + 1; g.lock(False); flat[3] = 1") == 0


@pytest.mark.parametrize("place", ["end", "start", "soft"])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 5), np.float32), ((7,), np.int8), ((0, 4), np.float32), ((), np.int64)]
)
def test_it_is_an_array(place: Place, shape: tuple[int, ...], dtype: type) -> None:
    made = Guarded(shape, dtype, place)
    assert (made.array.shape, made.array.dtype) == (shape, np.dtype(dtype))
    made.poison(0x55)
    assert made.bytes() == b"\x55" * made.array.nbytes
    made.array[...] = 3
    assert made.intact
    made.lock()
    assert (made.array == 3).all()


def test_placement_and_alignment() -> None:
    page = 4096
    assert (Guarded((5,), np.int8, "end").array.ctypes.data + 5) % page == 0
    assert Guarded((5,), np.int8, "start").array.ctypes.data % page == 0
    assert Guarded((5,), np.int8, "end", 64).array.ctypes.data % 64 == 0
    assert Guarded((5,), np.int8).array.ctypes.data % 64 == 0


@pytest.mark.parametrize(("place", "far"), [("soft", 35), ("soft", -1), ("start", 35), ("end", -1)])
def test_slack_and_margins_tell(place: Place, far: int) -> None:
    made = Guarded((5, 7), np.float32, place)
    base = made.array.reshape(-1)
    if far < 0:
        as_strided(base[::-1], (36,))[35] = 0
    else:
        as_strided(base, (36,))[35] = 0
    assert not made.intact


def test_no_guard_pages_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def mprotect(self, *arguments: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *arguments, **options: Libc())
    with pytest.raises(ResourceError, match="cannot set up guard pages"):
        Guarded((3,), np.float32, "end")
