"""The compile cache under every fault it claims to survive. Tiny C sources; faults are planted, not imagined."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from files import small_files

from refstack.backends import build
from refstack.errors import BackendUnavailable, CompileError, ResourceError, UsageError

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
    build._private_folder.cache_clear()
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


def test_builds_once_into_one_private_file(cache: Path, answer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(len(entries(cache))))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: build.library([answer]).answer(), range(8))) == [42] * 8
    loaded = build.library([answer])
    assert build.library([answer]) is loaded
    assert synced == [0]  # once, and before it was visible
    assert [loaded._name] == [str(entry) for entry in entries(cache)]  # the name under which debuggers look for it
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (cache, cache / "tmp")] == [0o700] * 2
    assert [stray for stray in (cache / "tmp").iterdir() if stray.suffix != ".lock"] == []


def test_the_compiler_works_in_a_folder_of_its_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path
) -> None:
    facts = "$PWD $TMPDIR $LC_ALL [$LD_PRELOAD] $(readlink /proc/self/fd/0) $*"
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", f'echo "{facts}" >> "{tmp_path}/calls"')))
    for name, value in (("LC_ALL", "de_DE.UTF-8"), ("LD_PRELOAD", "/nonexistent.so"), ("TMPDIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    before = os.dup(0)
    with answer.open() as other:  # an input that is not /dev/null already
        os.dup2(other.fileno(), 0)
        try:
            assert build.library([answer]).answer() == 42
        finally:
            os.dup2(before, 0)
            os.close(before)
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    folder = calls[0][0]
    assert Path(folder).parent == cache / "tmp"
    assert [call[:5] for call in calls] == [[folder, folder, "C", "[]", "/dev/null"]] * 3
    assert " ".join(calls[2]).endswith(" -fPIC answer.c.o rs_build.c.o -lm -o library.so")


def test_sources_headers_and_defines_reach_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modèle ✓ a b"
    header = write(folder / "h" / "add.h", "int add(int, int);\n#define BASE 40\n")
    one = write(folder / "one.c", '#include "add.h"\nint answer(void) { return add(BASE, TWO); }\n')
    two = write(folder / "two ✓.c", '#include "add.h"\nint add(int a, int b) { return a + b; }\n')
    text = write(folder / "text.c", "int text_length = sizeof TEXT - 1;\n")
    monkeypatch.setenv("REFSTACK_CACHE_DIR", str(folder / "caché ✓ c"))
    loaded = build.library([one, two, text], [header], {"TWO": 2, "TEXT": '"a b; $HOME"'})
    assert loaded.answer() == 42
    assert ctypes.c_int.in_dll(loaded, "text_length").value == len("a b; $HOME")
    assert len(entries(folder / "caché ✓ c")) == 1
    write(header, "int add(int, int);\n#define BASE 50\n")
    assert build.library([one, two, text], [header], {"TWO": 3, "TEXT": '""'}).answer() == 53


def test_key_covers_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path) -> None:
    monkeypatch.setattr(build, "_cached", lambda entry, key: key)  # no compiling: only the key is asked for
    header, other = write(tmp_path / "h.h", "\n"), write(tmp_path / "other.c", "\n")

    def key(sources: tuple[Path, ...] = (answer, other), **kwargs: object) -> str:
        return str(build.library(sources, **({"headers": [header]} | kwargs)))  # type: ignore[arg-type]

    first = key()
    os.utime(answer, (0, 0))
    moved = [Path(shutil.copy(path, write(tmp_path / "elsewhere" / path.name, ""))) for path in (answer, other)]
    assert {key((other, answer)), key((moved[0], moved[1])), key(defines={})} == {first}
    # Apart from what is written: through a link the compiler itself would be overwritten.
    link = write(tmp_path / "linked" / "x", "").with_name(Path(build.compiler().path).name)
    link.symlink_to(build.compiler().path)
    with monkeypatch.context() as patch:
        patch.setenv("REFSTACK_CC", str(link))
        assert key() == first
    keys = [first, key(defines={"X": 1}), key(defines={"X": "2"}), key(extra_flags=["-g"]), key(headers=[])]
    keys += [key((answer,), headers=[header, other]), key((answer, Path(shutil.copy(other, tmp_path / "renamed.c"))))]
    for file in (other, header):
        write(file, "/* changed */\n")
        keys.append(key())
    for attribute, value in (("ABI", -1), ("cpu_features", lambda: "x"), ("platform.libc_ver", lambda: ("musl", "1"))):
        with monkeypatch.context() as patch:
            patch.setattr(f"refstack.backends.build.{attribute}", value)
            keys.append(key())
    monkeypatch.setenv("REFSTACK_CFLAGS", "-g3 -DTEXT='a b'")
    keys.append(key())
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", "")))
    keys.append(key())
    wrapper(tmp_path / "cc", "", version="echo gcc 99.0")
    os.utime(tmp_path / "cc", (1, 1))
    keys.append(key())
    assert len(keys) == len(set(keys)) == 15


@pytest.mark.parametrize("before", ["", NO_LOCK], ids=["lock", "no-lock"])
def test_eight_processes_race_on_a_cold_cache(tmp_path: Path, cache: Path, answer: Path, before: str) -> None:
    go, log = tmp_path / "go", tmp_path / "calls"
    script = wrapper(tmp_path / "cc", f'echo "$@" >> "{log}"')
    wait = f"import os, time; Path(r'{tmp_path}', f'ready{{os.getpid()}}').touch()\n"
    wait += f"while not Path(r'{go}').exists(): time.sleep(0.002)\n"
    racers = [start(answer, before=before + wait, REFSTACK_CC=str(script)) for _ in range(8)]
    wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 8)
    go.touch()
    assert [(*racer.communicate(timeout=60), racer.returncode) for racer in racers] == [("42\n", "", 0)] * 8
    assert len(entries(cache)) == 1
    calls = len(log.read_text().splitlines())
    assert calls > 3 if before else calls == 3  # answer.c, rs_build.c, the link; without the lock they did race
    assert fresh(answer, REFSTACK_CC=str(script)) == ("42", "", 0)
    assert len(log.read_text().splitlines()) == calls  # a warm cache needs no compiling


@pytest.mark.parametrize("error", [OSError, NotImplementedError])
def test_without_a_lock_it_builds_all_the_same(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, answer: Path
) -> None:
    asked = []

    def lock(path: Path, timeout: float) -> None:
        asked.append((path.parent.name, path.suffix, timeout))
        raise error

    monkeypatch.setattr(build, "FileLock", lock)
    assert build.library([answer]).answer() == 42
    assert asked == [("tmp", ".lock", 120)]  # a lock is not waited for longer than a build may take


def test_a_folder_that_cannot_be_removed_is_left_to_the_next_sweep(
    cache: Path, monkeypatch: pytest.MonkeyPatch, answer: Path
) -> None:
    def busy(path: object, **kwargs: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        assert build.library([answer]).answer() == 42
    for stray in (cache / "tmp").iterdir():
        os.utime(stray, (time.time() - 3700,) * 2)
    young = write(cache / "tmp" / "young" / "x", "").parent
    os.utime(young, (time.time() - 3500,) * 2)
    listed = [cache / "tmp" / "gone", *(cache / "tmp").iterdir()]  # another process swept the first meanwhile
    assert len(listed) == 4
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(listed))
    build._sweep(cache / "tmp")
    assert os.listdir(cache / "tmp") == ["young"]


def test_killed_while_compiling(tmp_path: Path, cache: Path, answer: Path) -> None:
    slow, began = write(tmp_path / "slow", ""), tmp_path / "began"
    script = wrapper(tmp_path / "cc", f'touch "{began}"; while [ -e "{slow}" ]; do sleep 0.05; done')
    process = start(answer, REFSTACK_CC=str(script))
    wait_for(began.exists)
    process.kill()
    process.communicate()
    slow.unlink()
    strays = [stray for stray in (cache / "tmp").iterdir() if stray.is_dir()]
    assert (len(strays), entries(cache)) == (1, [])
    assert fresh(answer, REFSTACK_CC=str(script)) == ("42", "", 0)
    assert strays[0].exists()  # younger than an hour: its process might be alive
    os.utime(strays[0], (time.time() - 3700,) * 2)
    assert fresh(write(answer, ANSWER.format(43)), REFSTACK_CC=str(script)) == ("43", "", 0)
    assert (strays[0].exists(), len(entries(cache))) == (False, 2)


def test_killed_at_random_times(cache: Path, answer: Path) -> None:
    random.seed(1)
    for attempt in range(8):
        write(answer, ANSWER.format(attempt))  # a new key: every process compiles
        process = start(answer, before="print('on', flush=True)")
        assert process.stdout is None or process.stdout.readline() == "on\n"
        time.sleep(random.uniform(0, 0.25))
        process.kill()
        process.communicate()
        entries(cache)
    assert fresh(answer) == ("7", "", 0)


BAD: dict[str, Callable[[Path, bytes, bytes], bytes]] = {
    "empty": lambda entry, good, other: b"",
    "text": lambda entry, good, other: b"not a library\n",
    "one-bit": lambda entry, good, other: good[:5000] + bytes([good[5000] ^ 1]) + good[5001:],
    "half": lambda entry, good, other: good[: len(good) // 2],
    "no-seal": lambda entry, good, other: good[: -build.SEAL_BYTES],
    "one-byte-less": lambda entry, good, other: good[:-1],
    "one-byte-more": lambda entry, good, other: good + b"\0",
    "other-entry": lambda entry, good, other: other,
    "other-entry-sealed": lambda entry, good, other: (
        (body := other[: -build.SEAL_BYTES]) + build._seal(body, entry.stem)
    ),
    "text-sealed": lambda entry, good, other: b"no library" + build._seal(b"no library", entry.stem),
}

WHY = {"other-entry-sealed": "it was built for another key", "text-sealed": ".*: (file too short|invalid ELF header)"}


@pytest.mark.parametrize("kind", BAD)
def test_bad_entry_is_rebuilt_and_never_written_in_place(kind: str, cache: Path, tmp_path: Path) -> None:
    wrong, right = (Path(build.library([write(tmp_path / "answer.c", ANSWER.format(n))])._name) for n in (41, 42))
    bad = BAD[kind](right, right.read_bytes(), wrong.read_bytes())
    right.unlink()  # a new inode: this process has the old one mapped
    right.write_bytes(bad)
    with right.open("rb") as held:
        out, err, status = fresh(tmp_path / "answer.c")
        assert held.read() == bad  # what was there was replaced, not changed under whoever has it mapped
    assert (out, status) == ("42", 0)
    why = WHY.get(kind, "its content is not what was written for this key")
    assert re.search(f"RuntimeWarning: compiled library {right} is rebuilt: {why}\n", err)
    assert entries(cache) == sorted([wrong, right])
    assert fresh(tmp_path / "answer.c") == ("42", "", 0)


def test_an_unchecked_truncated_library_would_end_the_process(cache: Path, answer: Path) -> None:
    """Why the seal is checked before dlopen and not after it."""
    content = Path(build.library([answer])._name).read_bytes()
    (cache / "half").write_bytes(content[: len(content) // 2])
    _, err, status = fresh(run=f"build.ctypes.CDLL(r'{cache / 'half'}')")
    assert status < 0 or "OSError" in err


def test_compiler_flags_and_report(cache: Path) -> None:
    chosen = build.flags(found := build.compiler())
    assert {"-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-ffp-contract=fast", "-shared"} <= set(chosen)
    assert build.build_report() == {
        "compiler": found.path,
        "version": found.version,
        "flags": " ".join(chosen),
        "built_without": "",
        "cache": str(cache),
    }


def test_first_compiler_that_answers_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=r"no C compiler found \(looked for: \$REFSTACK_CC, gcc, clang, cc\)"):
        build.compiler()
    wrapper(tmp_path / "cc", "", version="echo 'cc (Debian) 12.2.0'; echo second line")
    assert build.compiler() == build.Compiler(str(tmp_path / "cc"), "cc (Debian) 12.2.0", "gcc")
    assert "-mtune=generic" in build.flags(build.compiler())
    wrapper(tmp_path / "clang", "", version="echo 'Debian clang version 16.0.6'")
    for nothing in ("exit 1", "echo gcc 13; exit 1", "true"):
        wrapper(tmp_path / "gcc", "", version=nothing)
        os.utime(tmp_path / "gcc", (len(nothing),) * 2)
        assert build.compiler().kind == "clang"
    assert build.compiler() == build.Compiler(str(tmp_path / "clang"), "Debian clang version 16.0.6", "clang")
    assert "-mtune=generic" not in build.flags(build.compiler())
    wrapper(tmp_path / "gcc", "", version="echo gcc 13")
    assert build.compiler().path == str(tmp_path / "gcc")
    monkeypatch.setenv("REFSTACK_CC", "/nonexistent")
    with pytest.raises(BackendUnavailable, match=r"looked for: \$REFSTACK_CC=/nonexistent\).*numpy backend"):
        build.library([])
    report = build.build_report()
    assert report.pop("compiler").startswith("unusable: no C compiler found")
    assert report == {"version": "", "flags": "", "built_without": "", "cache": str(tmp_path / "cache")}


def test_compile_error_shows_command_end_and_log(cache: Path, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.c", "".join(f"#error wrong{line:02d}\n" for line in range(40)))
    with pytest.raises(CompileError, match=r"exit status 1\n  command .*-O3 .*bad\.c") as caught:
        build.library([bad])
    message = str(caught.value)
    assert ("wrong39" in message, "wrong00" in message, message.count("\n  | ")) == (True, False, 20)
    assert str(log := next((cache / "failed").glob("*.log"))) in message
    assert all(f"wrong{line:02d}" in log.read_text() for line in range(40))
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert entries(cache) == []


def test_a_compile_error_that_is_no_text(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", "printf 'caf\\351 \\303\\251\\n'; exit 3")))
    with pytest.raises(CompileError, match=r"exit status 3\n.*\n  \| caf\ufffd é\n"):
        build.library([write(tmp_path / os.fsdecode(b"\xff.c"), "")])
    text = next((cache / "failed").glob("*.log")).read_text(encoding="utf-8")
    assert text.endswith("-c '?.c' -o '?.c.o'\nexit status 3\ncaf\ufffd é\n")


def test_sources_that_cannot_become_a_library(cache: Path, tmp_path: Path, answer: Path) -> None:
    write(tmp_path / "x.h", "\n")
    with pytest.raises(CompileError, match=r"x\.h: No such file|'x\.h' file not found"):
        build.library([write(tmp_path / "hidden.c", '#include "x.h"\n')])
    serial = "void f(void) {\n#pragma omp parallel for\nfor (int i = 0; i < 9; i++) break;\n}\n"
    with pytest.raises(CompileError, match="OpenMP"):  # not dropped with -fopenmp, to give a serial library
        build.library([write(tmp_path / "serial.c", serial)])
    with pytest.raises(CompileError, match=r"compiles but does not load: .*missing"):
        build.library([write(tmp_path / "calls.c", "int missing(void); int answer(void) { return missing(); }\n")])
    with pytest.raises(UsageError, match=r"two C files are called answer\.c"):
        build.library([answer, write(tmp_path / "twin" / "answer.c", "\n")])
    with pytest.raises(UsageError, match=r"cannot read C file .*nothing\.c: No such file"):
        build.library([tmp_path / "nothing.c"])
    assert entries(cache) == []


def test_refused_and_malformed_flags(monkeypatch: pytest.MonkeyPatch, answer: Path) -> None:
    for flag in ("-ffast-math", "-Ofast", "-funsafe-math-optimizations"):
        with pytest.raises(UsageError, match=f"compiler flag {flag} is refused"):
            build.library([answer], extra_flags=[flag])
        with monkeypatch.context() as patch:
            patch.setenv("REFSTACK_CFLAGS", f"-g {flag}")
            with pytest.raises(UsageError, match=f"{flag} is refused.*remove it .REFSTACK_CFLAGS='-g {flag}'"):
                build.library([answer])
            assert f"{flag} is refused" in build.build_report()["compiler"]
    with pytest.raises(UsageError, match="compiler flag -Ofast, -ffast-math is refused"):
        build.flags(build.compiler(), extra_flags=["-ffast-math", "-g", "-Ofast"])
    monkeypatch.setenv("REFSTACK_CFLAGS", "-DX='")
    with pytest.raises(UsageError, match="cannot be split into flags"):
        build.library([answer])
    with pytest.raises(UsageError, match="build variant is 'quick', known are release, sanitize"):
        build.flags(build.Compiler("", "", "gcc"), "quick")


def failing(flag: str, says: str) -> str:
    return f'case "$*" in *{flag}*) echo "{says}" >&2; exit 1;; esac\n'


LACKS = [
    ("-march=native", "error: bad value ('native') for '-march=' switch"),
    ("-march=native", "error: unknown target CPU 'native'"),
    ("-fopenmp", "error: unrecognized command-line option '-fopenmp'"),
    ("-fopenmp", "ld: cannot find -lgomp: No such file or directory"),
    ("-fopenmp", "ld: cannot find -lomp: No such file or directory"),
    ("-fopenmp", "ld: library not found for -liomp5"),
    ("-fopenmp", "fatal error: cannot read spec file 'libgomp.spec'"),
    ("-fopenmp", "answer.c:1:10: fatal error: omp.h: No such file or directory"),
    ("-fopenmp", "answer.c:1:10: fatal error: 'omp.h' file not found"),
]


@pytest.mark.parametrize("lacking", [*([each] for each in LACKS), [LACKS[2], LACKS[0]]])
def test_a_flag_the_compiler_lacks_is_left_out_and_told(
    lacking: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path
) -> None:
    flag = " ".join(flag for flag, _ in lacking)
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", "".join(failing(*each) for each in lacking))))
    for _ in "cold", "warm":
        monkeypatch.setattr(build, "_loaded", {})
        assert build.library([answer]).answer() == 42
        assert build.build_report()["built_without"] == flag


def test_hanging_compiler_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path) -> None:
    child, done = tmp_path / "pid", tmp_path / "done"
    hang = f'case "$*" in *answer.c*) (sleep 2; touch "{done}") & echo $! > "{child}"; wait;; esac'
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", hang)))
    monkeypatch.setattr(build, "TIMEOUT_S", 0.5)
    with pytest.raises(CompileError, match=r"  \| stopped: not done after 0\.5 s\n"):
        build.library([answer])
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    wait_for(lambda: not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z")
    assert not done.exists()


def test_sanitized_library_needs_its_runtime_and_then_catches(tmp_path: Path) -> None:
    code = "#include <stdlib.h>\nint answer(void) { volatile char *p = malloc(8); free((void *)p); return *p; }\n"
    source = write(tmp_path / "answer.c", code)
    with pytest.raises(BackendUnavailable, match=r"sanitizer's runtime is not loaded; .*LD_PRELOAD=") as told:
        build.library([source], variant="sanitize")
    hint = str(told.value).partition("$(")[2].partition(")")[0]
    runtime = subprocess.check_output(hint.split(), text=True).strip()
    run = "print(build.library([Path(sys.argv[1])], variant='sanitize').answer())"
    out, err, status = fresh(source, run=run, LD_PRELOAD=runtime, ASAN_OPTIONS="")
    assert (out, status != 0, "heap-use-after-free" in err, "answer.c:2" in err) == ("", True, True, True)


def test_clang_needs_its_own_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path) -> None:
    clang = build.Compiler("", "", "clang")
    assert "-shared-libsan" in build.flags(clang, "sanitize")
    assert "-shared-libsan" not in build.flags(clang) + build.flags(build.Compiler("", "", "gcc"), "sanitize")
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "clang", "", version="echo clang")))
    runtime = f"libclang_rt.asan-{platform.machine()}.so"
    with pytest.raises(
        BackendUnavailable, match=rf"LD_PRELOAD=.\$\({tmp_path}/clang -print-file-name={runtime}\). ASAN_"
    ):
        build.library([answer], variant="sanitize")


X86 = "vendor_id\t: V:\xff\ncpu family\t: 25\nmodel\t\t: 17\nstepping\t: 1\ncpu MHz\t\t: {}\nflags\t\t: {}\n"
ARM = "BogoMIPS\t: {}\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(("processor", "told"), [(X86, "V:\ufffd 25 17 1"), (ARM, "0x41 8 0xd0c")], ids=["x86", "arm"])
def test_cpu_features_are_stable_and_tell_processors_apart(processor: str, told: str, tmp_path: Path) -> None:
    def features(clock: int, sets: str) -> str:
        text = f"{processor.format(clock, sets)}\n{processor.format(0, 'other')}extra\n"
        (tmp_path / "cpuinfo").write_bytes(text.encode("latin-1"))
        return build.cpu_features(tmp_path / "cpuinfo")

    assert features(1000, "fma avx2 sse") == f"{platform.machine()} {told} avx2 fma sse"
    assert features(1000, "fma avx2 sse") == features(2345, "sse avx2 fma") != features(1000, "sse avx2 fma avx512f")
    assert build.cpu_features(tmp_path / "none") == platform.machine()


@pytest.mark.parametrize(
    ("variable", "below"), [("REFSTACK_CACHE_DIR", ""), ("XDG_CACHE_HOME", "refstack"), ("HOME", ".cache/refstack")]
)
def test_where_the_cache_is(variable: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFSTACK_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "not" / "yet"))
    assert build.cache_dir() == tmp_path / "not" / "yet" / below
    assert build.cache_dir().is_dir()


def test_others_may_read_the_cache(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o755)
    assert build.cache_dir() == cache


Spoil = Callable[[Path, pytest.MonkeyPatch], object]
UNUSABLE: dict[str, Spoil] = {
    "cannot be made .File exists.": lambda cache, patch: write(cache, ""),
    "cannot be made .Not a directory.": lambda cache, patch: patch.setenv(
        "REFSTACK_CACHE_DIR", f"{write(cache, '')}/deeper"
    ),
    "is a symbolic link": lambda cache, patch: cache.symlink_to(cache.parent),
    "may be written to by others .mode 0770.": lambda cache, patch: write(cache / "x", "").parent.chmod(0o770),
    "may be written to by others .mode 0702.": lambda cache, patch: write(cache / "x", "").parent.chmod(0o702),
    "belongs to user .*, not -1": lambda cache, patch: patch.setattr(os, "geteuid", lambda: -1),
    # Planted, for nothing is read-only to root.
    "is read-only": lambda cache, patch: patch.setattr(os, "access", lambda path, mode: not mode & os.W_OK),
    "is mounted noexec": lambda cache, patch: patch.setattr(os, "ST_NOEXEC", os.statvfs(cache.parent).f_flag),
    "HOME is not set": lambda cache, patch: patch.setattr(os, "environ", {"PATH": os.environ["PATH"]}),
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_unusable_cache_falls_back_to_a_private_folder(
    reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: Path
) -> None:
    UNUSABLE[reason](cache, monkeypatch)
    advice = "compiled kernels last for this process only; set REFSTACK_CACHE_DIR to a folder of your own"
    with pytest.warns(RuntimeWarning, match=f"^(cache folder {cache}(/deeper)? )?{reason}: {advice}$"):
        folder = build.cache_dir()
    assert build.library([answer]).answer() == 42  # and no second warning: warnings are errors here
    assert (len(entries(folder)), entries(cache)) == (1, [])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", [ANSWER.format(42), "#error wrong\n"], ids=["works", "fails"])
def test_private_folder_outlives_the_process_only_for_a_log(text: str, cache: Path, tmp_path: Path) -> None:
    write(cache, "")
    private = tmp_path / "private"
    private.mkdir()
    _, err, status = fresh(write(tmp_path / "answer.c", text), TMPDIR=str(private))
    assert "compiled kernels last for this process only" in err
    assert [log.name in err for log in private.glob("*/failed/*.log")] == [True] * (status != 0)
    assert len(list(private.iterdir())) == (status != 0)


@pytest.mark.parametrize(
    ("owner", "inside", "left"), [(0, "tmp", False), (0, "failed", True), (1, "tmp", True), (1, "failed", True)]
)
def test_what_is_left_of_a_private_folder(owner: int, inside: str, left: bool, tmp_path: Path) -> None:
    (tmp_path / "private" / inside).mkdir(parents=True)
    build._discard(tmp_path / "private", os.getpid() + owner)
    assert (tmp_path / "private").exists() is left
    build._discard(tmp_path / "gone", os.getpid())  # nothing to say at exit


def test_no_room_for_a_private_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cache, "")
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    told = (
        f"^cache folder {cache} cannot be made .*, and no temporary folder can be made: .*Not a dir.*; free some space$"
    )
    with pytest.raises(ResourceError, match=told):
        build.cache_dir()


@pytest.mark.parametrize(
    "says",
    ["No space left on device", "Disk quota exceeded", "File too large", "File size limit exceeded (core dumped)"],
)
def test_a_compiler_without_room(
    says: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path
) -> None:
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", failing("answer.c", f"as: {says}"))))
    with pytest.raises(
        ResourceError, match=re.escape(f"cannot compile in {cache}/tmp: as: {says}; free some space, or")
    ):
        build.library([answer])


@pytest.mark.parametrize("limit", [0, 100, 2000, 10000])
def test_full_disk_is_a_resource_error(limit: int, cache: Path, answer: Path) -> None:
    """A limit on the size of files stops the copies, the compiler, the linker, or the seal, as a full disk would."""
    told = f"^cannot compile in {cache}(/tmp)?: .*(File|limit).*; free some space, or set REFSTACK_CACHE_DIR elsewhere$"
    with pytest.raises(ResourceError, match=told), small_files(limit):
        build.library([answer])
    assert entries(cache) == []
    assert build.library([answer]).answer() == 42
