"""The C compiler of this machine, the flags it is given, and the processor that -march=native stands for.

Next: build.py
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output

from refstack.errors import BackendUnavailable, UsageError

PLAIN = {"LC_ALL": "C", "LD_PRELOAD": ""}  # English messages, and no sanitizer that watches the compiler
COMMON = ("-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-std=gnu11", "-shared", "-fPIC")
VARIANTS = {
    "release": ("-O3", "-march=native"),
    "sanitize": ("-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
}
REFUSED = {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only", "-fassociative-math"}


@dataclass(frozen=True)
class Compiler:
    """path as found, version = first line of --version, kind = "gcc" or "clang"."""

    path: str
    version: str
    kind: str


def compiler() -> Compiler:
    """First of gcc, clang, cc that answers --version; only $REFSTACK_CC when that is set.

    Raises      BackendUnavailable    there is none
    """
    wanted = os.environ.get("REFSTACK_CC")
    for name in [wanted] if wanted else ["gcc", "clang", "cc"]:
        path = shutil.which(name)
        found = _probe(os.path.abspath(path), os.stat(path).st_mtime_ns) if path else None
        if found:
            return found
    looked_for = f"$REFSTACK_CC={wanted}" if wanted else "$REFSTACK_CC, gcc, clang, cc"
    raise BackendUnavailable(f"no C compiler found (looked for: {looked_for}); install one or use the numpy backend")


@cache
def _probe(path: str, mtime_ns: int) -> Compiler | None:
    """What `path --version` says; mtime_ns makes an upgraded compiler a new question."""
    try:
        answer = check_output([path, "--version"], stderr=DEVNULL, timeout=10, env=os.environ | PLAIN)
    except (OSError, SubprocessError):
        return None
    text = answer.decode(errors="replace")
    return Compiler(path, text.partition("\n")[0], "clang" if "clang" in text.lower() else "gcc") if text else None


def flags(compiler: Compiler, variant: str = "release", extra_flags: Sequence[str] = ()) -> tuple[str, ...]:
    """Flags of a variant ("release" or "sanitize"), then extra_flags, then those of $REFSTACK_CFLAGS.

    Raises      UsageError    an unknown variant, or a flag that would break the numeric contract
    Numerics    a*b + c may become one fma (-ffp-contract=fast); NaN, Inf and the order of sums stay as written
    """
    if variant not in VARIANTS:
        raise UsageError(f"build variant is {variant!r}, known are {', '.join(VARIANTS)}")
    # gcc 12 takes Zen 4 for Zen 3, and that tuning halves the speed of chains of fma.
    tune = ("-mtune=generic",) if compiler.kind == "gcc" else ()
    # gcc links the shared sanitizer runtime anyway; clang would leave it out of a shared library.
    runtime = ("-shared-libsan",) if variant == "sanitize" and compiler.kind == "clang" else ()
    asked = os.environ.get("REFSTACK_CFLAGS", "")
    try:
        chosen = (*VARIANTS[variant], *tune, *COMMON, *runtime, *extra_flags, *shlex.split(asked))
    except ValueError as error:
        raise UsageError(f"REFSTACK_CFLAGS={asked!r} cannot be split into flags: {error}") from error
    if refused := sorted(REFUSED.intersection(chosen)):
        raise UsageError(
            f"compiler flag {', '.join(refused)} is refused: it reorders sums and ignores NaN, so that no error bound "
            f"holds; remove it (REFSTACK_CFLAGS={asked!r})"
        )
    return chosen


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What -march=native depends on: machine, model of the first processor and its instruction sets, sorted."""
    try:
        lines = cpuinfo.read_text(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    identity = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU architecture", "CPU part")
    sets = sorted(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    return " ".join([platform.machine(), *(fields[name] for name in identity if name in fields), *sets])
