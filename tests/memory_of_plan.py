"""A process of its own that plans a network's file and runs it: python memory_of_plan.py SMALL FILE [keep]

SMALL is a small network: it loads the libraries and starts the threads, so that this is the interpreter's own, as are
pages of libraries' code (RssFile) and of the stack (VmStk) that are touched later. Prints JSON: bytes of the plan, and
the peak over the interpreter's own while it planned and while it ran. `keep` holds on to the network beside its plan.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from refstack.models import zoo
from refstack.planner import Plan, plan
from refstack.worker import memory_bytes, reset_peak


def run(path: str, keep: bool) -> tuple[Plan, int, int]:
    """The plan, the peak while planning, and that of two runs."""
    reset_peak()
    made = plan(zoo.load(path) if keep else path, 1, ("openmp",))
    planning = memory_bytes("VmHWM") or 0
    x = np.zeros(made.x.shape, np.float32)
    reset_peak()
    for _ in range(2):
        made.run(x)
    return made, planning, memory_bytes("VmHWM") or 0


def later() -> int:
    """What grows as code is reached, whatever a network holds."""
    return (memory_bytes("RssFile") or 0) + (memory_bytes("VmStk") or 0)


def main(small: str, path: str, *keep: str) -> None:
    """Print what was found."""
    run(small, bool(keep))
    own, before = memory_bytes("VmRSS") or 0, later()
    made, planning, running = run(path, bool(keep))
    own += later() - before
    print(json.dumps({"planned": made.planned_bytes, "planning": planning - own, "running": running - own}))


if __name__ == "__main__":
    main(*sys.argv[1:])
