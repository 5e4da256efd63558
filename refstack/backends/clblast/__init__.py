"""A baseline: im2col and the matrix product of CLBlast, with the parameters that the library itself has for the device.

What a user gets on OpenCL without writing kernels. Only dense weights; what is no matrix product is done by the opencl
backend's rows, and a whole network stays on the device. Beside it stands clblast_tuned.
The library is Debian's libclblast1, called by ctypes: library.py; its rows: rows.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from refstack.backends import Step, opencl
from refstack.backends.clblast import library
from refstack.formats import Array
from refstack.kernels import Kernel

NAME = "clblast"
FALLBACK = ("numpy",)

unavailable = library.unavailable
device, hold = opencl.device, opencl.hold


def build_id() -> str:
    """The device's and the library's."""
    return f"{opencl.build_id()}, {library.version()}"


@cache
def kernels() -> tuple[Kernel, ...]:
    """Products first."""
    from refstack.backends.clblast.products import Setting
    from refstack.backends.clblast.rows import rows

    return rows(NAME, opencl.devices.chosen(), lambda: Setting({}))


def lower(steps: Sequence[Step], threads: int, outputs: Sequence[Array] | None = None) -> Callable[[], None]:
    """As the opencl backend without its one launch for a whole network, in which a library's kernels have no place."""
    from refstack.backends.opencl.segment import Segment

    return Segment(steps, outputs).run


def stopwatch(steps: Sequence[Step], threads: int) -> Callable[[], list[int]]:
    """By the device's own clock."""
    from refstack.backends.opencl.segment import Segment

    return Segment(steps, [step.output for step in steps], timed=True).times


def load() -> None:
    """Have the library compile its kernels, which takes up to a minute the first time."""
    from refstack.backends.clblast.rows import warm

    warm({})
