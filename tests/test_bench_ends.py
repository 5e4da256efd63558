"""Ends that nobody plans: kill -9, Ctrl-C, a full disk."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from benching import strict_loads, tiny

from refstack import checkpoint
from refstack.benchmark import worker
from refstack.benchmark.journal import Journal


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "refstack", "bench", *arguments]
    env = worker.environment(1)
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip


def wait_for_rows(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    """Arguments of a run over several small networks, each a group of its own."""
    for i in range(4):
        checkpoint.save(tiny(i), tmp_path / f"net{i}.safetensors")
    models = ",".join(str(tmp_path / f"net{i}.safetensors") for i in range(4))
    return ["-m", models, "-t", "dense", "-b", "numpy", "--quick", "-o", str(tmp_path / "j.jsonl"), "-f", "jsonl"]


def test_kill_9_keeps_what_was_finished_and_repeats_nothing(many: list[str], tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for count in (1, 2):
        process = start(*many, cwd=tmp_path)
        wait_for_rows(path, count, process)
        children = psutil.Process(process.pid).children()
        process.kill()
        process.communicate()
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with Journal(path) as journal:
        before = journal.rows
    assert 2 <= len(before) < 4
    process = start(*many, cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    with Journal(path) as journal:
        assert journal.rows[: len(before)] == before
        assert len(journal.rows) == len({row["cell_id"] for row in journal.rows}) == 4
    assert [strict_loads(line)["cell_id"] for line in stdout.splitlines()] == [row["cell_id"] for row in journal.rows]


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(many: list[str], tmp_path: Path) -> None:
    process = start(*many, cwd=tmp_path)
    wait_for_rows(tmp_path / "j.jsonl", 1, process)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, (stdout, stderr)
    assert stdout == ""
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_a_full_disk_ends_with_3_and_a_sound_journal(many: list[str], tmp_path: Path) -> None:
    path, limit = tmp_path / "j.jsonl", 9000  # one row fits, four do not
    script = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        f"import sys; sys.argv[1:] = {['bench', *many]!r}; from refstack.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=worker.environment(1), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3, done.stderr
    assert "rows written so far are kept" in done.stderr
    with Journal(path) as journal:
        assert journal.damaged == 0
        assert 1 <= len(journal.rows) < 4
