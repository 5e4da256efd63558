"""What the tests of the compile cache share: a cold cache, tiny sources, compilers that do something first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from refstack.backends import build, cache_folder

CC = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc") or ""
pytestmark = pytest.mark.skipif(not CC, reason="no C compiler on this machine")

ANSWER = "int answer(void) {{ return {}; }}\n"
RUN = "print(build.library([Path(p) for p in sys.argv[1:]]).answer())"
NO_LOCK = "def absent(*args, **kwargs): raise NotImplementedError\nbuild.FileLock = absent\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cold cache of its own for every test, and no memory of libraries loaded before."""
    monkeypatch.delenv("REFSTACK_CC", raising=False)
    monkeypatch.delenv("REFSTACK_CFLAGS", raising=False)
    monkeypatch.setenv("REFSTACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_loaded", {})
    cache_folder._private_folder.cache_clear()
    return tmp_path / "cache"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never through a link
    path.write_text(text)
    return path


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    return write(tmp_path / "answer.c", ANSWER.format(42))


def wrapper(path: Path, body: str, version: str = f'"{CC}" --version') -> Path:
    """A compiler that does something before it hands over to the real one."""
    write(path, f'#!/bin/sh\n[ "$1" = --version ] && {{ {version}; exit; }}\n{body}\nexec "{CC}" "$@"\n').chmod(0o755)
    return path


def start(*args: object, before: str = "", run: str = RUN, **environ: str) -> subprocess.Popen[str]:
    """A new Python that builds or loads: what this one has mapped would hide what the cache holds."""
    code = f"import sys; from pathlib import Path; from refstack.backends import build\n{before}\n{run}"
    command = [sys.executable, "-c", code, *map(str, args)]
    env = os.environ | {"PYTHONPATH": str(Path(build.__file__).parents[2])} | environ
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fresh(*args: object, **kwargs: str) -> tuple[str, str, int]:
    out, err = (process := start(*args, **kwargs)).communicate(timeout=60)
    return out.strip(), err, process.returncode


def entries(cache: Path) -> list[Path]:
    """All that is visible under a final name; each one must be whole."""
    found = sorted(cache.glob("*.so"))
    for entry in found:
        content = entry.read_bytes()
        assert content[-build.SEAL_BYTES :] == build._seal(content[: -build.SEAL_BYTES], entry.stem)
    return found


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def failing(flag: str, says: str) -> str:
    """What a compiler does that cannot be given this flag."""
    return f'case "$*" in *{flag}*) echo "{says}" >&2; exit 1;; esac\n'
