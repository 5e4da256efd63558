"""Which kernels `verify` has examined here, on disk: what bench asks before it times one.

    digest = sha256(source files that a kernel or its check may hang on, backend's `build_id`)
    file   = <cache>/verified/<backend>-<digest>.json
           = {"seal": sha256 of the rest, "digest": .., "kernels": {name: Record}}

Another compiler, library or line of source is another digest, so a record never speaks for what it was not made on. A
file that does not hold what was written into it counts as none.
Next: gate.py
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

import refstack
from refstack.backends import NAMES, backend, openmp
from refstack.backends.cache_folder import cache_dir

if TYPE_CHECKING:
    from refstack.verification.verdicts import Verdict

APART = ("cli", "benchmark", "train", "doctor.py", "__main__.py")
"""Parts of refstack that no kernel and no check of one is made of."""


@dataclass(frozen=True)
class Record:
    """What `verify` last said of a kernel.

    state, reason       PASS, or how it failed          case, seed      the problem that it failed on
    profile, cases      what it had to pass: quick or full, and how many problems that were
    when                UTC
    """

    state: str
    profile: str
    cases: int
    when: str
    reason: str = ""
    case: str = ""
    seed: int | None = None


@cache
def code_sha256(apart: Sequence[str]) -> str:
    """Of every source file of refstack, Python, C and OpenCL, but those below the files and folders `apart`."""
    package, native = Path(refstack.__file__).resolve().parent, openmp.sources().parent
    digest = hashlib.sha256()
    for folder, pattern in ((package, "*.py"), (native, "*.[ch]"), (native, "*.cl")):
        for path in sorted(folder.rglob(pattern)):
            name = path.relative_to(folder)
            if name.parts[0] not in apart:
                digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def digest(name: str) -> str:
    """Of all that decides whether a backend's kernels are right."""
    facts = json.dumps([code_sha256(APART), backend(name).build_id()])
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def read(name: str) -> dict[str, Record]:
    """Kernel -> record, for a backend as it is now. Empty where there is no file, or one that is not to be trusted."""
    made_on = digest(name)
    try:
        found = json.loads(_path(name, made_on).read_bytes())
        if found.pop("seal") != _seal(found) or found["digest"] != made_on:
            return {}
        return {kernel: Record(**fields) for kernel, fields in found["kernels"].items()}
    except (OSError, ValueError, RecursionError, KeyError, AttributeError, TypeError):
        return {}


def keep(verdicts: Sequence[Verdict], profile: str, whole: bool) -> None:
    """Record what `verify` has found of refstack's own kernels: failures always, passing only of a whole profile."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    states = ("FAIL", "CRASH", "TIMEOUT", "PASS") if whole else ("FAIL", "CRASH", "TIMEOUT")
    for name in NAMES:
        found = {
            v.kernel: Record(v.state, profile, v.cases, now, v.reason, v.case, v.seed)
            for v in verdicts
            if v.state in states and v.kernel.split(".")[2] == name
        }
        if found:
            write(name, found)


def write(name: str, records: Mapping[str, Record]) -> None:
    """Add to what is known of a backend's kernels, or replace it. The file is whole at every moment."""
    made_on = digest(name)
    path = _path(name, made_on)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as stack:
            with suppress(NotImplementedError):  # without locks two that write at once may lose a record
                stack.enter_context(FileLock(path.with_suffix(".lock")))
            kernels = {kernel: asdict(record) for kernel, record in {**read(name), **records}.items()}
            content = {"digest": made_on, "kernels": kernels}
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent)), path.name)
            made.write_text(json.dumps({"seal": _seal(content), **content}, indent=1))
            os.replace(made, path)
    except OSError as error:
        warnings.warn(f"what verify found cannot be kept in {path}: {error}", RuntimeWarning, stacklevel=2)


def _path(name: str, made_on: str) -> Path:
    return cache_dir() / "verified" / f"{name}-{made_on}.json"


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(b"refstack verified" + json.dumps(content, sort_keys=True).encode()).hexdigest()
