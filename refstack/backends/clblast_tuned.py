"""The baseline clblast with parameters that were searched for on this device: what the library can do when it is tuned.

`refstack bench` and `tune` search when the backend is named for the first time on a device, some minutes; what they
found is kept in <cache>/clblast/<sha256 of device and library>.json and read by every process after that.
The search: clblast/search.py
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from refstack.backends import clblast
from refstack.backends.cache_folder import cache_dir
from refstack.backends.clblast.products import NAMES as PARAMETERS
from refstack.backends.clblast.products import Setting
from refstack.backends.opencl import devices
from refstack.errors import BackendUnavailable
from refstack.kernels import Kernel

NAME = "clblast_tuned"
FALLBACK = ("numpy",)

device, hold, lower, stopwatch = clblast.device, clblast.hold, clblast.lower, clblast.stopwatch


def unavailable() -> str | None:
    """As clblast; or that nobody has searched yet."""
    reason = clblast.unavailable()
    if reason is None and read() is None:
        return "no parameters were searched for on this device; try  refstack bench -m vgg16 -t dense -b clblast_tuned"
    return reason


def build_id() -> str:
    """clblast's, and the parameters."""
    found = read()
    return f"{clblast.build_id()}, {found and json.dumps(_content(found), sort_keys=True)}"


@cache
def kernels() -> tuple[Kernel, ...]:
    """Those of clblast."""
    from refstack.backends.clblast.rows import rows

    return rows(NAME, devices.chosen(), setting)


def setting() -> Setting:
    """What was found for this device. BackendUnavailable if nothing was."""
    found = read()
    if found is None:
        raise BackendUnavailable(f"{NAME}: {unavailable()}")
    return found


def prepare(say: Callable[[str], None]) -> None:
    """Search, unless it was done already."""
    if clblast.unavailable() is None and read() is None:
        from refstack.backends.clblast.search import search

        say(f"{NAME}: CLBlast's parameters are searched for on {devices.chosen().label}: minutes, once")
        keep(search(say))


def load() -> None:
    """Have the library compile its kernels with these parameters."""
    from refstack.backends.clblast.rows import warm

    warm(setting().parameters)


def read() -> Setting | None:
    """What is kept; None where there is nothing, or nothing that makes sense."""
    path = _path()
    try:
        return _checked(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def keep(found: Setting) -> None:
    """Write it, whole at every moment."""
    path = _path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, path.name)
        made.write_text(json.dumps({"device": clblast.build_id(), **_content(found)}, indent=1))
        os.replace(made, path)


def _content(found: Setting) -> dict[str, Any]:
    return {"parameters": found.parameters, "filters_first": sorted(found.filters_first)}


def _path() -> Path:
    return cache_dir() / "clblast" / f"{hashlib.sha256(clblast.build_id().encode()).hexdigest()[:32]}.json"


def _checked(content: Any) -> Setting:
    """Known names and small whole numbers: they become part of a program. ValueError otherwise."""
    parameters = content["parameters"]
    numbers = [n for values in parameters.values() for n in values.values()]
    numbers += [n for size in content["filters_first"] for n in size]
    if any(type(n) is not int or not 0 <= n <= 1 << 24 for n in numbers):
        raise ValueError("not a small whole number")
    if any(set(values) != set(PARAMETERS[kernel]) for kernel, values in parameters.items()):
        raise ValueError("not CLBlast's parameters")
    return Setting(parameters, frozenset(tuple(size) for size in content["filters_first"]))
