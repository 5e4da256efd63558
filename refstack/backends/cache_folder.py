"""The user's folder for what is made on this machine: compiled kernels, what was tuned, what was verified.

Libraries in it are loaded into the process, so no other user may be able to write to it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import warnings
from functools import cache
from pathlib import Path

import platformdirs

from refstack.errors import ResourceError


def cache_dir() -> Path:
    """$REFSTACK_CACHE_DIR, else the user's cache folder / refstack, made with mode 0700 and checked.

    A folder that another user could write to, or that cannot be written to, is replaced for the life of this process
    by a private temporary one, with a warning. It is removed at exit unless it holds the log of a failed build.

    Raises      ResourceError    there is no room for a temporary folder either
    """
    asked = os.environ.get("REFSTACK_CACHE_DIR")
    if not (asked or os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME")):
        return _private_folder("HOME is not set")
    folder = Path(asked) if asked else platformdirs.user_cache_path("refstack")
    reason = _unusable(folder.absolute())
    return _private_folder(f"cache folder {folder} {reason}") if reason else folder.absolute()


def _unusable(folder: Path) -> str | None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        mounted = os.statvfs(folder).f_flag
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    if not stat.S_ISDIR(status.st_mode):
        return "is a symbolic link"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not {os.geteuid()}"
    if status.st_mode & 0o022:
        return f"may be written to by others (mode {stat.S_IMODE(status.st_mode):04o})"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "is read-only"
    return "is mounted noexec" if mounted & os.ST_NOEXEC else None


@cache
def _private_folder(reason: str) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="refstack-"))
    except OSError as error:
        raise ResourceError(f"{reason}, and no temporary folder can be made: {error}; free some space") from error
    atexit.register(_discard, folder, os.getpid())
    text = f"{reason}: compiled kernels last for this process only; set REFSTACK_CACHE_DIR to a folder of your own"
    warnings.warn(text, RuntimeWarning, stacklevel=4)
    return folder


def _discard(folder: Path, pid: int) -> None:
    if os.getpid() == pid and not (folder / "failed").exists():  # a forked child leaves its parent's folder alone
        shutil.rmtree(folder, ignore_errors=True)
