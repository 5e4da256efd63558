"""A peer in a process of its own, under any Python with NumPy and the runtime: load, check, then time on command."""

from __future__ import annotations

import importlib.util
import os
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from refstack.errors import BackendUnavailable, CheckFailed
from refstack.worker import memory_bytes, reset_peak, serve
from refstack.yardstick import yardstick_ns

Reply = dict[str, Any]
WORDS = 300
"""Letters of a runtime's error that a row repeats."""

OVER, SLACK_NS = 1.2, 5_000_000
"""Processors busy for each thread that was asked for, beside what a library does now and then."""


class Session:
    """What the child holds between commands."""

    def versions(self, distributions: list[str]) -> Reply:
        """Of what is installed here; None for what is not."""
        return {"versions": {name: _version(name) for name in distributions}}

    def convert(self, runtime: str, model: str, folder: str) -> Reply:
        """The model in the runtime's own format."""
        module = _module(runtime)
        os.chdir(folder)  # converters leave files where they are called
        with _Told("cannot convert the model"):
            return {"model": str(module.convert(model, folder)) if hasattr(module, "convert") else model}

    def load(
        self, runtime: str, model: str, input: str, wanted: str, limit: float, threads: int, setting: str
    ) -> Reply:
        """Load, measure memory, check. Where that fails the parent ends this process.

        Args        wanted  .npy, the float64 logits        limit   the root mean square error allowed
        """
        import numpy as np

        baseline = memory_bytes("VmRSS")
        since = reset_peak()
        self.np, self.wanted, self.limit, self.threads = np, np.load(wanted, allow_pickle=False), limit, threads
        x = np.load(input, allow_pickle=False)
        module = _module(runtime)
        with _Told("cannot run the model"):
            self.run = module.load(model, threads, setting)
            self.x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if getattr(module, "CHANNELS_LAST", False) else x
            self.run(self.x)
            start = time.perf_counter_ns()
            y = self.run(self.x)
            run_ns = time.perf_counter_ns() - start
        peak = memory_bytes("VmHWM")
        y = np.array(y, np.float64)  # a copy: some runtimes give the same array each time
        error = self._check(y, "the output")
        self._computes()
        return {
            "run_ns": run_ns,
            "baseline_rss_bytes": baseline,
            "peak_rss_bytes": peak,
            "peak_rss_since": since,
            "max_error_vs_bound": error / limit,
            "logit_error": float(np.abs(y - self.wanted).max()),
            "logit_scale": float(np.abs(self.wanted).max()),
        }

    def time(self, runs: int, warmup: int) -> Reply:
        """`warmup` runs untimed, then `runs` timed one by one; the last output must still be right."""
        run, x, clock = self.run, self.x, time.perf_counter_ns
        before = yardstick_ns()
        for _ in range(warmup):
            run(x)
        samples, busy = [], time.process_time_ns()
        for _ in range(runs):
            start = clock()
            y = run(x)
            samples.append(clock() - start)
        processors = (time.process_time_ns() - busy - SLACK_NS) / sum(samples)
        after = yardstick_ns()
        if processors > OVER * self.threads:
            raise CheckFailed(f"{processors:.1f} processors were busy, {self.threads} threads were asked for")
        self._check(y, "an output of the timed runs")
        return {"samples_ns": samples, "yardstick_ns": min(before, after)}

    def finish(self) -> Reply:
        """After the last round: another input still gives another output, and this one the right one."""
        self._computes()
        return {}

    def _computes(self) -> None:
        """An output that was kept from before would not follow the input."""
        first = self.np.array(self.run(self.x))
        if self.np.array_equal(self.np.array(self.run(-self.x)), first):
            raise CheckFailed("another input gives the same output")
        self._check(self.run(self.x), "the output after another input")

    def _check(self, y: Any, what: str) -> float:
        """Root mean square error against float64, or CheckFailed."""
        if y.shape != self.wanted.shape:
            raise CheckFailed(f"{what} has shape {tuple(y.shape)}, wanted {self.wanted.shape}")
        error = float(self.np.sqrt(self.np.mean((self.np.asarray(y, self.np.float64) - self.wanted) ** 2)))
        if not error <= self.limit:  # NaN included
            raise CheckFailed(f"{what} has a root mean square error of {error:.3g}, allowed are {self.limit:.3g}")
        return error


class _Told:
    """Each runtime has its own tree of errors; a row tells the first words of any."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise BackendUnavailable(f"{self.what}: {words:.{WORDS}}") from None


def _module(runtime: str) -> ModuleType:
    """The file with `load`. It may be called like the library that it imports, so it gets another name."""
    spec = importlib.util.spec_from_file_location(f"peer_{Path(runtime).stem}", runtime)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _Told("cannot be imported"):
        spec.loader.exec_module(module)
    return module


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Serve until the parent closes the pipe or dies."""
    serve(Session(), ("versions", "convert", "load", "time", "finish"))
