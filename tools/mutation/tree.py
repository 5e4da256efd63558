"""A copy of refstack with one change, and what becomes of it: is a wrong program found out?

    Change(file, old, new)              old must stand in the file exactly once
    by_rows(change, sources, rows)       compile those C files, hold their rows to the contract (judge.py)
    by_tests(change, tests)               run those test files

Nothing in this process is changed: a child process imports the copy. It proves that it did by telling where its package
lies, and that a kernel was called by a line that every entry of the copy's C files writes when it is first called.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from refstack.backends import compilers

ROOT = Path(__file__).resolve().parents[2]
C = "accel/openmp"
NOT_KERNELS = ("roofs.c", "rs_run.c")
"""C files that serve no row."""

SECONDS = 10
"""Seconds after which a problem is held to hang; right kernels need a tenth of one."""

LONGEST = 1800
"""Seconds after which a trial is given up: something else is wrong."""

State = Literal["killed", "survived", "refused", "idle"]

ENTRY = re.compile(r"^( *void rs_\S+\(const rs_args \*a\) \{)", re.M)
WITNESS = """#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
void rs_witness(void) {
    static int told;
    if (told) return;
    told = 1;
    int file = open(getenv("RS_WITNESS"), O_CREAT | O_WRONLY | O_APPEND, 0600);
    if (file >= 0 && write(file, "called\\n", 7) == 7) close(file);
}
"""


@dataclass(frozen=True)
class Change:
    """`old` becomes `new` in one file, named from the root of the repository. An empty `old` changes nothing."""

    file: str
    old: str = ""
    new: str = ""

    def apply(self, text: str) -> str:
        count = text.count(self.old) if self.old else 1
        if count != 1:
            raise LookupError(f"{self.file} holds {self.old!r} {count} times, wanted once: bring the mutant up to date")
        return text.replace(self.old, self.new) if self.old else text


@dataclass(frozen=True)
class Result:
    """What became of a change.

    state   killed      the checks found it, `by` says which
            survived    everything passed
            refused     it does not compile
            idle        no row or no entry was run, so nothing is shown
    code    a hash of the machine code (by_rows only)
    cases   problems that it took, where the checks found it
    rows    how many rows were examined (by_rows only)
    """

    state: State
    by: str = ""
    code: str = ""
    cases: int = 0
    rows: int = 0


@contextmanager
def tree(change: Change, sources: Sequence[str] | None = None) -> Iterator[Path]:
    """A folder with the changed package and, of its C files, `sources`, what they rest on and a witness of calls."""
    with tempfile.TemporaryDirectory(prefix="refstack-mutant-") as made:
        folder = Path(made)
        shutil.copytree(ROOT / "refstack", folder / "refstack")
        shutil.copytree(ROOT / "accel", folder / "accel")
        (folder / "data").symlink_to(ROOT / "data")
        target = folder / change.file
        target.write_text(change.apply(target.read_text()))
        compiled = change.file.startswith(C) or sources is not None
        for file in (folder / C).glob("*.c") if compiled else ():
            if sources is None or file.name in (*sources, "rs_run.c"):
                file.write_text(ENTRY.sub(r"\1 extern void rs_witness(void); rs_witness();", file.read_text()))
            else:
                file.unlink()
        if compiled:
            (folder / C / "witness.c").write_text(WITNESS)
        yield folder


@cache
def sanitized() -> tuple[str, dict[str, str]]:
    """Compiler flags and environment under which ASan and UBSan watch the kernels; Python's own leaks are not told."""
    chosen = compilers.compiler()
    name = "libasan.so" if chosen.kind == "gcc" else f"libclang_rt.asan-{platform.machine()}.so"
    runtime = subprocess.check_output([chosen.path, f"-print-file-name={name}"], text=True).strip()
    watched = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    return " ".join(compilers.VARIANTS["sanitize"]), watched


def environment(folder: Path, flags: str) -> dict[str, str]:
    """Python finds the copy first, the compiler's cache is the copy's own."""
    own = {"PYTHONPATH": str(folder), "REFSTACK_CACHE_DIR": str(folder / "cache"), "REFSTACK_CFLAGS": flags,
           "RS_WITNESS": str(folder / "called"), "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    return os.environ | own


def run(command: Sequence[str], env: dict[str, str], seconds: float, cwd: Path) -> tuple[int, str, str]:
    """(exit status, stdout, stderr); the whole process group is ended after `seconds`, and when its leader is done."""
    job = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        raise
    return job.returncode, out, err


def by_rows(
    change: Change, sources: Sequence[str], rows: str, examples: int = 60, seed: int = 0, flags: str = "",
    sanitize: bool = False,
) -> Result:  # fmt: skip
    """Compile `sources` of the changed copy and examine those of its rows that match the glob `rows`."""
    flags, more = sanitized() if sanitize else (flags, {})
    with tree(change, sources) as folder:
        command = [
            sys.executable,
            str(Path(__file__).with_name("judge.py")),
            rows,
            *map(str, (examples, seed, SECONDS)),
        ]
        env = environment(folder, flags) | more
        status, out, err = run(command, env, LONGEST, folder)
        return _read(status, out, err, folder, rows)


def _read(status: int, out: str, err: str, folder: Path, rows: str) -> Result:
    """The result that judge.py's lines and its end tell."""
    lines = [json.loads(line) for line in out.splitlines()]
    told: dict[str, Any] = {name: fact for line in lines for name, fact in line.items()}
    if not told.get("package", "").startswith(str(folder)):
        raise RuntimeError(f"the changed copy was not imported: exit status {status}\n{out}{err}")
    if "refused" in told:
        return Result("refused", told["refused"])
    code = told.get("code", "")
    ended = signal.Signals(-status).name if status < 0 else f"exit status {status}: {err[:2000]}"
    if "rows" not in told:
        return Result("killed", f"CRASH while it was loaded, {ended}")
    if not told["rows"] or not (folder / "called").exists():
        return Result("idle", f"of {told['rows']} no entry was called, {ended}", code)
    for line in lines:
        if "state" in line:
            return Result("killed", "{state} {kernel}: {reason}, {case}".format(**line), code, line["cases"])
    if "compared" not in told:
        state = "TIMEOUT" if status == -signal.SIGALRM else "CRASH"
        return Result("killed", f"{state} {told.get('examining')}: {ended}", code)
    return Result("survived" if told["compared"] else "idle", "", code, rows=len(told["rows"]))


def by_tests(change: Change, tests: Sequence[str], flags: str = "", seconds: float = LONGEST) -> Result:
    """Run tests of the repository (pytest's words, e.g. tests/test_compare.py) on the changed copy."""
    with tree(change) as folder:
        env = environment(folder, flags)
        if change.file.endswith(".py"):
            told = "\nwith open(__import__('os').environ['RS_WITNESS'], 'a') as _file:\n    _file.write('imported')\n"
            (folder / change.file).write_text((folder / change.file).read_text() + told)
            del env["REFSTACK_CACHE_DIR"], env["REFSTACK_CFLAGS"]  # C is as it was: what was compiled before will do
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]
        command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), *(str(ROOT / test) for test in tests)]
        status, out, err = run(command, env, seconds, folder)
        if status not in (0, 1):
            return Result("idle", f"pytest ended with {status}: {out[-600:]}{err[-600:]}")
        if not (folder / "called").exists():
            return Result("idle", f"the changed file was never run: {out[-600:]}{err[-600:]}")
        failed = re.findall(r"^FAILED (.*)$", out, re.M)
        return Result("killed" if status else "survived", failed[0] if failed else out[-200:])
