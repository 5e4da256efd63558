"""OpenCL kernels, one source for processors and GPUs: all steps enqueued in order, one wait at the end.

The sources lie in accel/opencl, the rows in rows.py, what there is to run on in devices.py. Two families of kernels
stand in the same list: for processors (few heavy work-items, explicit vectors) and for GPUs (many light ones, tiles in
local memory); the family of the chosen device comes first, the other still runs, slowly.
pyopencl is imported when a device is first used; a runtime that aborts is found out in a child process (devices.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from refstack.backends import Step
from refstack.backends.opencl import devices
from refstack.errors import BackendUnavailable, UsageError
from refstack.formats import Array
from refstack.kernels import Kernel

NAME = "opencl"
FALLBACK = ("numpy",)


def unavailable() -> str | None:
    """None, or why no device can be used."""
    try:
        devices.chosen()
    except BackendUnavailable as error:
        return str(error)
    return None


def build_id() -> str:
    """Platform, device and driver: with the source they decide what is computed."""
    return devices.chosen().identity


@cache
def kernels() -> tuple[Kernel, ...]:
    """The rows, those for the chosen device's kind first."""
    from refstack.backends.opencl.rows import rows

    return rows(NAME, devices.chosen())


def device() -> dict[str, Any]:
    """The chosen device's name and what it has."""
    chosen = devices.chosen()
    names = ("name", "platform", "driver", "kind", "compute_units", "local_bytes", "memory_bytes")
    return {name: getattr(chosen, name) for name in names}


def roof() -> dict[str, float] | None:
    """The limits of a GPU; those of a processor are the host's."""
    if devices.chosen().kind != "gpu":
        return None
    from refstack.backends.opencl.roofs import measure

    return measure()


def hold(threads: int) -> None:
    """A processor's runtime reads its number of threads once, when it is loaded; a GPU has none to hold.

    Raises      UsageError      it was loaded with another number
    """
    held = os.environ.get(devices.THREADS)
    if "pyopencl" in sys.modules and held != str(threads) and devices.chosen().kind != "gpu":
        raise UsageError(
            f"opencl: its runtime was loaded with {held or 'all'} threads, asked for are {threads}: a process keeps "
            f"its number; run once for each, or set {devices.THREADS}"
        )
    os.environ[devices.THREADS] = str(threads)


def lower(steps: Sequence[Step], threads: int, outputs: Sequence[Array] | None = None) -> Callable[[], None]:
    """Enqueue all steps, wait once. Weights are copied to the device here, arrays that other steps wrote at each call.

    Args        threads     work-groups of one launch on a processor; else without effect: `hold` settles them
                outputs     as for every backend. None: all arrays go to the device before and come back after, between
                            margins that must stay as they were
    """
    from refstack.backends.opencl.calls import in_spans, walkable
    from refstack.backends.opencl.fused import Walk
    from refstack.backends.opencl.segment import Segment, runtime

    kind = devices.chosen().kind
    if outputs is not None and kind == ("cpu" if in_spans(steps) else "gpu") and walkable(steps):
        units = runtime().context.devices[0].max_compute_units  # here; devices.chosen() may be another process's word
        asked = units if kind == "gpu" else min(threads, units)
        walk = Walk(steps, outputs, asked)
        if kind == "gpu" or walk.groups == asked:
            return walk.run
    return Segment(steps, outputs).run


def stopwatch(steps: Sequence[Step], threads: int) -> Callable[[], list[int]]:
    """As for every backend, by the device's own clock: what a kernel takes, without the way there and back."""
    from refstack.backends.opencl.segment import Segment

    return Segment(steps, [step.output for step in steps], timed=True).times
