"""Where compiled kernels are kept, and what happens where they cannot be."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import building
import pytest
from building import ANSWER, entries, failing, fresh, wrapper, write
from files import small_files

from refstack.backends import build
from refstack.backends.cache_folder import _discard, cache_dir
from refstack.errors import ResourceError

pytestmark, cache, answer = building.pytestmark, building.cache, building.answer


@pytest.mark.parametrize(
    ("variable", "below"), [("REFSTACK_CACHE_DIR", ""), ("XDG_CACHE_HOME", "refstack"), ("HOME", ".cache/refstack")]
)
def test_where_the_cache_is(variable: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFSTACK_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "not" / "yet"))
    assert cache_dir() == tmp_path / "not" / "yet" / below
    assert cache_dir().is_dir()


def test_others_may_read_the_cache(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o755)
    assert cache_dir() == cache


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
        folder = cache_dir()
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
    _discard(tmp_path / "private", os.getpid() + owner)
    assert (tmp_path / "private").exists() is left
    _discard(tmp_path / "gone", os.getpid())  # nothing to say at exit


def test_no_room_for_a_private_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cache, "")
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    told = (
        f"^cache folder {cache} cannot be made .*, and no temporary folder can be made: .*Not a dir.*; free some space$"
    )
    with pytest.raises(ResourceError, match=told):
        cache_dir()


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
