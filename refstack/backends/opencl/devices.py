"""What OpenCL offers here: every device of every platform, whether it computes right, and which one is used.

A broken runtime ends the process that calls it, so devices are listed and tried in a child (probe.py), once.
REFSTACK_DEVICE names the one to use: part of its "platform: name", or cpu or gpu. Without it the first GPU that works
is taken, else the first processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from refstack.errors import BackendUnavailable
from refstack.worker import environment

VARIABLE = "REFSTACK_DEVICE"
TRIED = "REFSTACK_DEVICES_TRIED"
"""Where a process leaves what its probe found, for its children."""

THREADS = "POCL_MAX_PTHREAD_COUNT"
"""Holds PoCL to so many threads; read when it is loaded."""
SEATS = "POCL_AFFINITY"
"""1: thread i of PoCL keeps to processor i; read when it is loaded."""

TIMEOUT_S = 120.0
INSTALL = 'try  pip install "refstack-engine[opencl]"'


@dataclass(frozen=True)
class Device:
    """One device. `problem` says why it cannot be used; sizes in bytes."""

    platform: str
    name: str
    driver: str
    kind: str  # cpu, gpu, other
    compute_units: int
    group: int
    local_bytes: int
    memory_bytes: int
    alignment: int
    doubles: bool
    problem: str = ""

    @property
    def label(self) -> str:
        """How --device may name it."""
        return f"{self.platform}: {self.name}"

    @property
    def identity(self) -> str:
        """All that decides what it computes."""
        return f"{self.label}, {self.driver}"


@cache
def devices() -> tuple[Device, ...]:
    """Every device, tried.

    Raises      BackendUnavailable      no pyopencl, no platform, or the probe itself failed
    """
    told = os.environ.get(TRIED)
    if told is None:
        told = _probe()
        os.environ[TRIED] = told
    found = tuple(Device(**each) for each in json.loads(told))
    if not found:
        raise BackendUnavailable(f"OpenCL has no platform with a device; {INSTALL}, or install a driver's ICD")
    return found


def chosen() -> Device:
    """The device that kernels run on.

    Raises      BackendUnavailable      none is there, none works, or not the one that was named
    """
    return choose(devices(), os.environ.get(VARIABLE, ""))


def choose(found: tuple[Device, ...], wanted: str) -> Device:
    """The first that fits the name and works; without a name GPUs come first, and simulators only count by name."""
    word = wanted.lower()
    fitting = [each for each in found if word == each.kind or (word and word in each.label.lower())]
    if not word:
        kinds = ("gpu", "cpu")
        fitting = sorted((each for each in found if each.kind in kinds), key=lambda each: kinds.index(each.kind))
    for each in fitting:
        if not each.problem:
            return each
    there = "; ".join(f"{each.label} ({each.problem or 'works'})" for each in found)
    asked = f"no device that works is called {wanted!r}" if word else "no device works"
    raise BackendUnavailable(f"OpenCL: {asked}; there are: {there}")


def seats() -> str:
    """SEATS as it should be: as rs_run.c has it, where there are just as many processors as threads each keeps to one.
    Of two that were woken on one processor the second waits there while another stands idle."""
    allowed = os.sched_getaffinity(0)
    threads = os.environ.get(THREADS) or str(os.cpu_count())
    return str(int(threads == str(len(allowed)) and allowed == set(range(len(allowed)))))


def _probe() -> str:
    """JSON of the devices, by children: one lists them, one for each tries it."""
    if find_spec("pyopencl") is None:
        raise BackendUnavailable(f"pyopencl is not installed; {INSTALL}")
    listed = _child()
    if "error" in listed:
        raise BackendUnavailable(f"OpenCL: {listed['error']}; {INSTALL}, or install a driver's ICD")
    found = listed["devices"]
    for number, each in enumerate(found):
        if each["kind"] != "other":
            each["problem"] = _child(str(number)).get("error", "")
    return json.dumps(found)


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "refstack.backends.opencl.probe", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, text=True, errors="replace", check=False,
            env=os.environ | {"PYTHONPATH": environment(1)["PYTHONPATH"], "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TIMEOUT_S:g} s"}
    last = done.stdout.strip().splitlines()[-1:] or [""]
    try:
        answer: dict[str, Any] = json.loads(last[0])
        return answer
    except ValueError:
        words = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return {"error": f"the runtime ended the process (exit status {done.returncode}): {words:.200}"}
