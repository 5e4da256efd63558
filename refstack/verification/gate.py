"""No kernel is timed that `verify` has not passed: what has no record yet is examined there and then."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from refstack.backends import NAMES
from refstack.verification import records
from refstack.verification.verdicts import verify


def refused(kernels: Iterable[str], say: Callable[[str], None] = lambda text: None) -> dict[str, str]:
    """Kernel -> why it may not be timed, for those that have not passed on this machine as it is.

    Args        say     is told when kernels have to be examined first
    Raises      what `verify` raises
    Cost        with records, milliseconds; without, some seconds, once for each kernel and source
    """
    wanted = sorted(set(kernels))
    used = [name for name in NAMES if any(_backend(kernel) == name for kernel in wanted)]
    known = {kernel: record for name in used for kernel, record in records.read(name).items()}
    reasons = {}
    if unknown := [kernel for kernel in wanted if kernel not in known]:
        say(f"{len(unknown)} kernels have not been verified on this machine, as they are: examined first")
        for verdict in verify(unknown, backends=used):
            if verdict.state != "PASS":
                reasons[verdict.kernel] = _why(
                    verdict.kernel, verdict.state, verdict.reason, verdict.case, verdict.seed
                )
    for kernel in wanted:
        record = known.get(kernel)
        if record is not None and record.state != "PASS":
            reasons[kernel] = _why(kernel, record.state, record.reason, record.case, record.seed)
    return reasons


def _backend(kernel: str) -> str:
    return kernel.split(".")[2]


def _why(kernel: str, state: str, reason: str, case: str, seed: int | None) -> str:
    at = f" --case {shlex.quote(case)} --seed {seed}" if case else ""
    return f"{kernel} has not passed verify ({state}: {reason}); to see it again: refstack verify --kernel {kernel}{at}"
