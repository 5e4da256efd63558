"""C compiled on demand and kept in a per-user cache that is checked, never trusted.

    key   = sha256(ABI, name and bytes of every file, flags, defines, compiler, CPU features, libc)
    entry = <cache>/<key>.so = ELF library || "refstack" || sha256(key || ELF library)

Loaders ignore what follows an ELF image, so the seal needs no second file that could belong to another process's
build. It is checked before dlopen, because mapping a truncated library can end the process with SIGBUS. A build
happens in a folder of its own under <cache>/tmp and reaches its final name by one rename when it has been loaded,
checked and synced: processes that race replace an entry by an equal one, and a lock only saves them the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import tempfile
import time
import warnings
from _ctypes import dlclose
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, Popen, TimeoutExpired

from filelock import FileLock

from refstack.backends.cache_folder import cache_dir
from refstack.backends.compilers import PLAIN, Compiler, compiler, cpu_features, flags
from refstack.errors import BackendUnavailable, CompileError, RefstackError, ResourceError, UsageError

ABI = 1  # raise it when a compiled library changes its meaning with its sources unchanged
TIMEOUT_S, STALE_S = 120.0, 3600.0
MAGIC = b"refstack"
SEAL_BYTES = len(MAGIC) + hashlib.sha256().digest_size
BUILD_FILE = "rs_build.c"
# A flag that a compiler may lack, and what it or the linker then says. The flag or the library must be named: to drop
# -fopenmp because a message speaks of OpenMP would hide a wrong pragma behind a serial library.
DROPPABLE = {
    "-march=native": re.compile(r"-march|unknown target CPU"),
    "-fopenmp": re.compile(r"-fopenmp|-l(gomp|omp|iomp5)\b|libgomp\.spec|omp\.h.*(No such file|not found)"),
}
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|File size limit exceeded")

Done = CompletedProcess[str]
_loaded: dict[str, ctypes.CDLL] = {}


@dataclass(frozen=True)
class _Recipe:
    """All that decides what a compiled library is; its hash is the key."""

    compiler: Compiler
    flags: tuple[str, ...]
    sources: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]

    @property
    def key(self) -> str:
        program = (os.path.realpath(self.compiler.path), self.compiler.version)
        facts = (ABI, self.flags, self.sources, self.files, program, cpu_features(), platform.libc_ver())
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def library(
    sources: Sequence[Path],
    headers: Sequence[Path] = (),
    defines: Mapping[str, str | int] | None = None,
    extra_flags: Sequence[str] = (),
    variant: str = "release",
) -> ctypes.CDLL:
    """The shared library of some C files, compiled unless the cache has it.

    The compiler is given copies in a folder of their own, so it sees the bytes that the key covers and no others: a
    header that is not named here is not found, instead of going stale. File names are therefore unique and flat.

    Args
        sources, headers    C files; each source is compiled alone, `#include "x.h"` finds the headers
        defines             name -> value, as -Dname=value
        extra_flags         appended to flags(compiler(), variant)
    Returns     ctypes.CDLL             the same one for the same key in this process
    Raises      BackendUnavailable      no compiler, or a sanitizer without its runtime preloaded
                CompileError            the compiler failed or took more than 120 s; names the log
                ResourceError           no space left for the build
                UsageError              a refused flag, two files of one name, a file that cannot be read
    Cost        reads and hashes the library (milliseconds) when warm; one compiler per core when cold
    """
    chosen = compiler()
    given = [f"-D{name}={value}" for name, value in sorted((defines or {}).items())]
    wanted = flags(chosen, variant, [*extra_flags, *given])
    _check_sanitizer(wanted, chosen)
    recipe = _Recipe(chosen, wanted, tuple(sorted(Path(s).name for s in sources)), _read([*sources, *headers]))
    if (key := recipe.key) not in _loaded:
        folder = cache_dir()
        _loaded[key] = _cached(folder / f"{key}.so", key) or _built(folder, recipe, key)
    return _loaded[key]


def _check_sanitizer(wanted: Sequence[str], chosen: Compiler) -> None:
    asked = any(re.match("-fsanitize=.*address", flag) for flag in wanted)
    # Without its runtime such a library does not merely fail to load: it ends the process.
    if asked and not hasattr(ctypes.CDLL(None), "__asan_init"):
        runtime = "libasan.so" if chosen.kind == "gcc" else f"libclang_rt.asan-{platform.machine()}.so"
        start = f'LD_PRELOAD="$({chosen.path} -print-file-name={runtime})" ASAN_OPTIONS=detect_leaks=0'
        raise BackendUnavailable(f"the address sanitizer's runtime is not loaded; start Python with {start}")


def _read(paths: Sequence[Path]) -> tuple[tuple[str, bytes], ...]:
    files = {BUILD_FILE: b""}  # written at build time: it holds the key
    for path in map(Path, paths):
        if path.name in files:
            raise UsageError(f"two C files are called {path.name}, the second is {path}; rename one")
        try:
            files[path.name] = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read C file {path}: {error.strerror}") from error
    return tuple(sorted(files.items()))


def _seal(content: bytes, key: str) -> bytes:
    return MAGIC + hashlib.sha256(key.encode() + content).digest()


def _load(path: Path, key: str) -> ctypes.CDLL:
    """Load a sealed library; OSError or ValueError says why it is not to be trusted."""
    content = path.read_bytes()
    if content[-SEAL_BYTES:] != _seal(content[:-SEAL_BYTES], key):
        raise ValueError("its content is not what was written for this key")
    loaded = ctypes.CDLL(str(path))
    if key_of(loaded) != key:
        dlclose(loaded._handle)  # or the loader would answer with it whenever this path is asked for again
        raise ValueError("it was built for another key")
    return loaded


def key_of(loaded: ctypes.CDLL) -> str:
    """The key that a library was built for."""
    return _text(loaded, "rs_key")


def _text(loaded: ctypes.CDLL, name: str) -> str:
    return ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(loaded, name))).decode()


def _cached(entry: Path, key: str) -> ctypes.CDLL | None:
    try:
        return _load(entry, key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"compiled library {entry} is rebuilt: {error}", RuntimeWarning, stacklevel=3)
        return None


def _built(folder: Path, recipe: _Recipe, key: str) -> ctypes.CDLL:
    """Compile, check, publish. Whatever happens, the final name holds a whole library or what it held before."""
    entry, log, tmp = folder / f"{key}.so", folder / "failed" / f"{key}.log", folder / "tmp"
    try:
        tmp.mkdir(mode=0o700, exist_ok=True)
        _sweep(tmp)
        with ExitStack() as stack:
            with suppress(OSError, NotImplementedError):  # a lock that is not to be had: another may build it too
                stack.enter_context(FileLock(tmp / f"{key}.lock", timeout=TIMEOUT_S))
            with suppress(OSError, ValueError):  # whoever had the lock before may have built it
                return _load(entry, key)
            work = stack.enter_context(tempfile.TemporaryDirectory(dir=tmp, ignore_cleanup_errors=True))
            return _publish(_compiled(recipe, key, Path(work), log), entry, key)
    except OSError as error:
        raise _no_room(folder, str(error)) from error


def _sweep(folder: Path) -> None:
    """Remove what killed processes left: no build lives for an hour, and a lost lock only costs work."""
    for stray in folder.iterdir():
        with suppress(OSError):  # another process sweeps too
            if stray.lstat().st_mtime < time.time() - STALE_S:
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def _compiled(recipe: _Recipe, key: str, work: Path, log: Path) -> Path:
    """Compile and link in work; a flag this compiler lacks is left out, and the library says so."""
    for name, content in recipe.files:
        (work / name).write_bytes(content)
    wanted = recipe.flags
    while True:
        without = " ".join(flag for flag in recipe.flags if flag not in wanted)
        text = f'const char rs_key[] = "{key}";\nconst char rs_built_without[] = "{without}";\n'
        (work / BUILD_FILE).write_text(text)
        failure = _compile([recipe.compiler.path, *wanted], [*recipe.sources, BUILD_FILE], work)
        if failure is None:
            return work / "library.so"
        missing = [flag for flag, says in DROPPABLE.items() if flag in wanted and says.search(failure.stdout)]
        if not missing:
            raise _refusal(failure, work, log)
        wanted = tuple(flag for flag in wanted if flag not in missing)


def _compile(command: list[str], sources: Sequence[str], work: Path) -> Done | None:
    """Compile each source, one process per core, and link. Returns the first command that failed."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in pool.map(lambda name: _run([*command, "-c", name, "-o", f"{name}.o"], work), sources):
            if done.returncode != 0:
                return done
    done = _run([*command, *(f"{name}.o" for name in sources), "-lm", "-o", "library.so"], work)
    return done if done.returncode != 0 else None


def _run(command: list[str], work: Path) -> Done:
    """Run in work, with temporary files there too. A timeout kills the whole process group."""
    env = os.environ | PLAIN | {"TMPDIR": str(work)}
    job = Popen(command, cwd=work, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True)
    try:
        output = job.communicate(timeout=TIMEOUT_S)[0]
    except TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        output = job.communicate()[0] + b"stopped: not done after %g s\n" % TIMEOUT_S
    return Done(command, job.returncode, output.decode(errors="replace"))


def _no_room(folder: Path, reason: str) -> ResourceError:
    return ResourceError(f"cannot compile in {folder}: {reason}; free some space, or set REFSTACK_CACHE_DIR elsewhere")


def _refusal(failure: Done, work: Path, log: Path) -> RefstackError:
    lines = failure.stdout.splitlines()
    if full := [line for line in lines if DISK_FULL.search(line)]:
        return _no_room(work.parent, full[0])
    command = shlex.join(failure.args)
    text = f"{command}\nexit status {failure.returncode}\n{failure.stdout}"
    (work / "log").write_bytes(text.encode(errors="replace"))
    log.parent.mkdir(mode=0o700, exist_ok=True)
    os.replace(work / "log", log)
    return CompileError(
        f"the C compiler failed with exit status {failure.returncode}\n  command {command}\n"
        + "".join(f"  | {line}\n" for line in lines[-20:])
        + f"  log     {log}\n  try     another compiler through REFSTACK_CC, or the numpy backend"
    )


def _publish(made: Path, entry: Path, key: str) -> ctypes.CDLL:
    content = made.read_bytes()
    with made.open("ab") as file:
        file.write(_seal(content, key))
        file.flush()
        os.fsync(file.fileno())
    try:
        dlclose(_load(made, key)._handle)
    except (OSError, ValueError) as error:
        raise CompileError(f"the library compiles but does not load: {error}; name every source it needs") from error
    os.replace(made, entry)
    return _load(entry, key)  # under its final name, where debuggers and sanitizers look for its symbols


def build_report() -> dict[str, str]:
    """Compiler, version, flags, cache folder, and which flags the libraries of this process had to do without.

    A missing compiler or a refused flag does not raise: the reason stands in place of the compiler.
    """
    without = {flag for loaded in _loaded.values() for flag in _text(loaded, "rs_built_without").split()}
    folder = str(cache_dir())
    try:
        chosen = compiler()
        found = {"compiler": chosen.path, "version": chosen.version, "flags": " ".join(flags(chosen))}
    except RefstackError as error:
        found = {"compiler": f"unusable: {error}", "version": "", "flags": ""}
    return found | {"built_without": " ".join(sorted(without)), "cache": folder}
