"""What tuning found, kept in one file for each user: tuning.json in the cache folder, or $REFSTACK_TUNING_FILE.

    {"schema": 1, "machines": {environment()["key"]: {"openmp 1": {case: {"kernel": .., "times_us": {..}, ..}}}}}

The key stands for processor, compiler, libraries and refstack's own code: what was measured with others is not used. A
file that is not exactly this is ignored with a warning; `plan` ignores a kernel that is gone or refuses its case.
"""

from __future__ import annotations

import json
import math
import os
import stat
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from refstack.backends import device
from refstack.backends.cache_folder import cache_dir
from refstack.benchmark import machine
from refstack.container import write_bytes
from refstack.errors import UsageError

SCHEMA = 1
MOST_BYTES = 16 << 20
LOCK_S = 10.0
MOST_MACHINES = 8
"""Machines and builds that are kept; the one tuned longest ago goes."""
MOST_CASES = 4096
"""Cases of one backend and thread count; again the oldest go."""


@dataclass(frozen=True)
class Found:
    """What was measured for one case.

    kernel      the winner              default     the row that plan takes without tuning
    times_us    of the rows that were measured      left_out    why others may not be chosen
    """

    kernel: str
    default: str
    times_us: Mapping[str, float]
    left_out: Mapping[str, str] = field(default_factory=dict)
    measured_utc: str = ""


Kept = dict[str, Found]
"""Case word -> what was found."""


def path() -> Path:
    """The file, whether or not it is there."""
    asked = os.environ.get("REFSTACK_TUNING_FILE")
    return Path(asked).absolute() if asked else cache_dir() / "tuning.json"


def kept(backend: str, threads: int) -> Kept:
    """What was found on this machine, with this build."""
    return _read().get(_machine(), {}).get(_group(backend, threads), {})


def tuned(backend: str = "openmp", threads: int = 1) -> dict[str, str]:
    """Case word -> kernel, where tuning found a better one than the default: for `plan(.., tuned=)`."""
    return better(kept(backend, threads))


def better(found: Kept) -> dict[str, str]:
    """The winners that are not the default."""
    return {case: each.kernel for case, each in found.items() if each.kernel != each.default}


def keep(backend: str, threads: int, found: Kept) -> Path:
    """Add to the file what was found, in place of what it says of the same cases. The file.

    Raises      UsageError, ResourceError   it cannot be written, and stays as it was
    """
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"the folder cannot be made: {error.strerror}"
        raise UsageError(f"{file}: {why}; name another file in REFSTACK_TUNING_FILE") from None
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # a lock that is not to be had: writing says why, if it matters
            stack.enter_context(FileLock(file.with_name(f"{file.name}.lock"), timeout=LOCK_S))
        machines = _read()
        mine = machines.pop(_machine(), {})
        before = mine.get(_group(backend, threads), {})
        cases = {**{case: each for case, each in before.items() if case not in found}, **found}
        mine[_group(backend, threads)] = dict(list(cases.items())[-MOST_CASES:])
        machines = dict([*machines.items(), (_machine(), mine)][-MOST_MACHINES:])
        write_bytes(file, _encode(machines))
    return file


def forget() -> bool:
    """Remove the file, of all machines; whether there was one."""
    with suppress(FileNotFoundError):
        path().unlink()
        return True
    return False


Machines = dict[str, dict[str, Kept]]


def _machine() -> str:
    return str(machine.environment()["key"])


def _group(backend: str, threads: int) -> str:
    on = device(backend)
    return f"{backend} {threads}" + (f" {on['platform']} {on['name']}, {on['driver']}" if on else "")


def _encode(machines: Machines) -> bytes:
    plain = {
        key: {group: {case: asdict(each) for case, each in cases.items()} for group, cases in groups.items()}
        for key, groups in machines.items()
    }
    return json.dumps({"schema": SCHEMA, "machines": plain}, allow_nan=False, indent=1).encode()


def _read() -> Machines:
    file = path()
    try:
        return _decode(_content(file))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        text = f"{file}: ignored, not what `refstack tune` writes: {error}; `refstack tune` makes it anew"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
        return {}


def _content(file: Path) -> bytes:
    # O_NONBLOCK: opening a pipe must not wait for a writer
    with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"{status.st_size} bytes, at most {MOST_BYTES} are read")
        return opened.read(MOST_BYTES)


def _decode(content: bytes) -> Machines:
    """ValueError says what is wrong."""
    whole = json.loads(content)
    if not isinstance(whole, dict) or whole.get("schema") != SCHEMA:
        raise ValueError(f"no schema {SCHEMA}")
    return {
        key: {
            group: {case: _found(each) for case, each in _object(cases).items()}
            for group, cases in _object(groups).items()
        }
        for key, groups in _object(whole.get("machines")).items()
    }


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.40} stands where an object should")
    return value


def _found(value: Any) -> Found:
    fields = _object(value)
    if set(fields) != {"kernel", "default", "times_us", "left_out", "measured_utc"}:
        raise ValueError(f"fields {sorted(fields)!r:.80}")
    times, left_out = _object(fields["times_us"]), _object(fields["left_out"])
    if not all(type(us) in (int, float) and 0 <= us < math.inf for us in times.values()):
        raise ValueError("a time that is no number of microseconds")
    words = [fields["kernel"], fields["default"], fields["measured_utc"], *left_out.values()]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("a name that is no text")
    return Found(**fields)
