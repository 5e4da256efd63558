"""What this machine offers, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from refstack import datasets
from refstack.backends import backend, build, compilers, opencl, openmp
from refstack.backends.cache_folder import cache_dir
from refstack.errors import RefstackError, UsageError
from refstack.models import MODELS, zoo


@dataclass(frozen=True)
class Finding:
    """One thing that is there or not. `needed`: without it something asked for does not work."""

    what: str
    ok: bool
    detail: str
    get: str = ""
    needed: bool = False


def doctor(require: Sequence[str] = ()) -> list[Finding]:
    """Look at everything refstack can use.

    Args        require     names of findings that must be ok; `python` and `numpy` always must
    """
    looks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "numpy": _numpy,
        "compiler": _compiler,
        "openmp": _openmp,
        "opencl": _opencl,
        "blas": lambda: _backend("blas"),
        "cache": _cache,
        "threads": _threads,
        "checkpoints": _checkpoints,
        "data": _data,
    }
    unknown = sorted(set(require) - set(looks))
    if unknown:
        raise UsageError(f"doctor: cannot look for {', '.join(unknown)}, wanted some of {', '.join(looks)}")
    needed = {"python", "numpy", *require}
    return [_examine(what, look, what in needed) for what, look in looks.items()]


def _examine(what: str, look: Callable[[], Finding], needed: bool) -> Finding:
    try:
        found = look()
    except RefstackError as error:
        found = Finding(what, False, str(error).splitlines()[0])
    return Finding(what, found.ok, found.detail, "" if found.ok else found.get, needed)


def _python() -> Finding:
    return Finding("python", sys.version_info >= (3, 10), platform.python_version(), "Python 3.10 or newer")


def _numpy() -> Finding:
    return Finding("numpy", backend("numpy").unavailable() is None, numpy.__version__)


def _compiler() -> Finding:
    found = compilers.compiler()
    return Finding("compiler", True, f"{found.version} ({found.path})")


def _openmp() -> Finding:
    """Compiles the kernels, which is the only way to know."""
    reason = backend("openmp").unavailable()
    if reason:
        return Finding("openmp", False, reason, "apt install gcc, or set REFSTACK_CC")
    count = f"{len(backend('openmp').kernels())} kernels, vectors of {openmp.library().rs_vector_width()} float32"
    without = build.build_report()["built_without"]
    if "-fopenmp" in without:
        return Finding("openmp", False, f"{count}, built without {without}", "apt install gcc libgomp1")
    return Finding("openmp", True, count + (f", built without {without}" if without else ""))


def _opencl() -> Finding:
    """Tries every device, each in a child."""
    found, how = opencl.devices.devices(), 'pip install "refstack-engine[opencl]"; `refstack devices` lists all'
    broken = [f"{each.label}: {each.problem}" for each in found if each.problem]
    used = opencl.devices.chosen()
    rest = f"; not usable: {'; '.join(broken)}" if broken else ""
    return Finding("opencl", True, f"{len(opencl.kernels())} kernels on {used.label} ({used.kind}){rest}", how)


def _backend(name: str) -> Finding:
    reason = backend(name).unavailable()
    return Finding(
        name, reason is None, reason or f"{len(backend(name).kernels())} kernels", "pip install scipy numexpr"
    )


def _cache() -> Finding:
    folder = cache_dir()
    asked = os.environ.get("REFSTACK_CACHE_DIR")
    return Finding("cache", True, f"{folder}" + (" (REFSTACK_CACHE_DIR)" if asked else ""))


def _threads() -> Finding:
    count = len(os.sched_getaffinity(0))
    return Finding("threads", True, f"{count} of {os.cpu_count()} CPUs may be used by this process")


def _checkpoints() -> Finding:
    entries = zoo.manifest()
    there = [name for name in MODELS if name in entries and zoo.checkpoint_path(name)]
    missing = [name for name in MODELS if name not in there]
    return Finding(
        "checkpoints", not missing, f"{', '.join(there) or 'none'} in {zoo.data_dir()}", "python -m refstack.train"
    )


def _data() -> Finding:
    found = datasets.find()
    how = "refstack data fetch cifar10"
    return Finding("data", found is not None, str(found) if found else f"no cifar10 in {datasets.data_dir()}", how)
