"""The compile cache under every fault it claims to survive: races, kills, spoiled entries. Faults are planted."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import shutil
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import building
import pytest
from building import ANSWER, NO_LOCK, entries, fresh, start, wait_for, wrapper, write

from refstack.backends import build, compilers

pytestmark, cache, answer = building.pytestmark, building.cache, building.answer


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
    link = write(tmp_path / "linked" / "x", "").with_name(Path(compilers.compiler().path).name)
    link.symlink_to(compilers.compiler().path)
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
