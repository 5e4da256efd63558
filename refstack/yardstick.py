"""How fast the processor runs at this moment, from the time of work that nothing but its clock makes slower.

SHA-256 is a chain of instructions that wait for each other, over bytes that the first cache holds: neither memory nor
what other cores do delays it. Beside a time it says whether the program was slower, or the clock was.
"""

from __future__ import annotations

import hashlib
import time

WORK = bytes(1 << 16)
READINGS = 8


def yardstick_ns() -> int:
    """ns that WORK takes, the least of READINGS: an interruption only ever adds."""
    taken = []
    for _ in range(READINGS):
        start = time.perf_counter_ns()
        hashlib.sha256(WORK).digest()
        taken.append(time.perf_counter_ns() - start)
    return min(taken)
