"""A backend is a file: its kernel rows, and how it turns steps into something that runs.

Each module offers
    NAME                    the word on the command line
    FALLBACK                backends whose rows stand behind its own
    unavailable()           None, or why it cannot run on this machine and how to change that
    kernels()               its rows, best first
    build_id()              what beside refstack's own files decides what they compute: libraries, compiler, processor
    lower(steps, threads, outputs)      a function without arguments that runs the steps in order; `outputs` are the
                            arrays that must hold their values afterwards, None: all. (Arrays of the host hold them
                            anyway; a device brings back only these.)
and, if it computes on something else than this process's own threads,
    stopwatch(steps, threads)           a function that runs the steps and returns ns of each, by a better clock than
                            the host's around single calls
    device()                what that is, in facts for a result; its "kind" is cpu or gpu
    roof()                  its limits, as roofs.measure has them for the host; None if they are the host's
    hold(threads)           before its first use: as many threads as this process's runs are to have
and, if something takes long the first time,
    prepare(say)            what has to be found out once on a machine
    load()                  what a process has to compile or load before its first call
ctypes and compilers are touched only below this package, and only when a backend is used.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from refstack.errors import BackendUnavailable, UsageError
from refstack.formats import Array
from refstack.graph import Node
from refstack.kernels import Case, Kernel

BACKENDS = ("openmp", "opencl", "blas", "numpy")
"""Every backend, fastest first."""

BASELINES = ("clblast", "clblast_tuned")
"""Libraries to compare with: asked for by name only."""

NAMES = (*BACKENDS, *BASELINES)


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel call with its arguments: views into the plan's arena, in the kernel's layouts.

    packed      what kernel.pack returned       scratch     uint8, at least kernel.scratch(case) bytes
    """

    node: Node
    case: Case
    kernel: Kernel
    inputs: tuple[Array, ...]
    output: Array
    packed: dict[str, Array]
    scratch: Array


class Backend(Protocol):
    """What a backend module offers."""

    NAME: str
    FALLBACK: tuple[str, ...]

    def unavailable(self) -> str | None: ...
    def kernels(self) -> tuple[Kernel, ...]: ...
    def build_id(self) -> str: ...
    def lower(
        self, steps: Sequence[Step], threads: int, outputs: Sequence[Array] | None = None
    ) -> Callable[[], None]: ...


def backend(name: str) -> Backend:
    """The backend of this name, whether or not it can run here. UsageError for an unknown name."""
    if name not in (*NAMES, "plugin"):
        raise UsageError(f"unknown backend {name!r}, wanted one of {', '.join(NAMES)}")
    return cast(Backend, importlib.import_module(f"refstack.backends.{name}"))


def stopwatch(name: str, steps: Sequence[Step], threads: int) -> Callable[[], list[int]]:
    """A function that runs the steps of one backend in order and returns ns of each."""
    module = backend(name)
    own = getattr(module, "stopwatch", None)
    if own is not None:
        return cast("Callable[[], list[int]]", own(steps, threads))
    calls, clock = [module.lower((step,), threads) for step in steps], time.perf_counter_ns

    def times() -> list[int]:
        found = []
        for call in calls:
            start = clock()
            call()
            found.append(clock() - start)
        return found

    return times


def device(name: str) -> Mapping[str, Any] | None:
    """What a backend computes on, if that is not simply this machine's processor; None for another runtime too."""
    own = getattr(backend(name), "device", None) if name in NAMES else None
    return None if own is None else cast("Mapping[str, Any]", own())


def roof(name: str, threads: int, nbytes: int | None = None) -> Mapping[str, Any]:
    """What a backend could do at best with so many threads: FMA peak and bandwidth of what it computes on.

    Args        nbytes      of the host: how much is read again and again; None: more than caches hold
    """
    from refstack.backends.roofs import BUFFER_BYTES, measure

    own = getattr(backend(name), "roof", lambda: None)()
    return measure(threads, nbytes or BUFFER_BYTES) if own is None else {"threads": threads, **own}


def hold(name: str, threads: int) -> None:
    """Settle how many threads a backend has, where that is one number for a process. UsageError if it is too late."""
    own = getattr(backend(name), "hold", None)
    if own is not None:
        own(threads)


def prepare(name: str, say: Callable[[str], None]) -> None:
    """Find out what a backend has to know of this machine, if it does not yet. `say` is told what takes minutes."""
    own = getattr(backend(name), "prepare", None)
    if own is not None:
        own(say)


def load(name: str) -> None:
    """Compile and load now what a backend's first call would take long for."""
    own = getattr(backend(name), "load", None)
    if own is not None:
        own()


def rows(names: Iterable[str]) -> tuple[Kernel, ...]:
    """All rows of these backends and what they fall back to, in order. BackendUnavailable if one cannot run here."""
    found: dict[str, Backend] = {}
    for name in names:
        for each in (name, *backend(name).FALLBACK):
            found.setdefault(each, backend(each))
    if not found:
        raise UsageError(f"no backend named, wanted at least one of {', '.join(BACKENDS)}")
    for name, module in found.items():
        reason = module.unavailable()
        if reason:
            raise BackendUnavailable(f"backend {name}: {reason}")
    return tuple(kernel for module in found.values() for kernel in module.kernels())
