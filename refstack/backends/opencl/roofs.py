"""What the chosen device can do at best, measured as backends.roofs does for the host.

flops = 2 * multiply-adds / s        read_bytes_per_s = bytes read / s, from a buffer beyond the caches
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pyopencl as cl

from refstack.backends.opencl.segment import Runtime, runtime, text
from refstack.errors import CheckFailed

GROUP, GROUPS_A_UNIT = 256, 16
CHAINS, ROUNDS = 8, 1 << 12
BUFFER_BYTES = 1 << 28
REPEATS = 5


@cache
def measure() -> dict[str, float]:
    """The best of a few runs of each, by the device's clock. Results are checked.

    Cost        256 MiB of the device, well below a second
    """
    owner = runtime()
    queue, program = owner.queue(timed=True), cl.Program(owner.context, text("roofs")).build(owner.options)
    items = GROUP * GROUPS_A_UNIT * owner.device.compute_units
    found = np.empty(items, np.float32)
    y = owner.buffer(found.nbytes)

    fma = cl.Kernel(program, "roof_fma")
    fma.set_args(y, np.int32(ROUNDS), np.float32(0), np.float32(1))  # every chain ends at 1
    seconds = _best(owner, queue, fma, items)
    cl.enqueue_copy(queue, found, y)
    if (found != 4 * CHAINS).any():
        raise CheckFailed("roofs: the device's multiply-adds are wrong")

    count = BUFFER_BYTES // 16
    x = owner.buffer(BUFFER_BYTES)
    cl.enqueue_fill_buffer(queue, x, np.float32(1), 0, BUFFER_BYTES)
    read = cl.Kernel(program, "roof_read")
    read.set_args(x, y, np.int32(count))
    reading = _best(owner, queue, read, items)
    cl.enqueue_copy(queue, found, y)
    if found.sum(dtype=np.float64) != 4 * count:
        raise CheckFailed("roofs: the sum over the device's buffer is wrong")
    return {"flops": 2 * 4 * CHAINS * ROUNDS * items / seconds, "read_bytes_per_s": BUFFER_BYTES / reading}


def _best(owner: Runtime, queue: cl.CommandQueue, kernel: cl.Kernel, items: int) -> float:
    times = []
    for _ in range(REPEATS + 1):  # the first compiles, and wakes the device up
        event = cl.enqueue_nd_range_kernel(queue, kernel, (items,), (GROUP,))
        queue.finish()
        times.append(event.profile.end - event.profile.start)
    return float(min(times[1:])) / 1e9
