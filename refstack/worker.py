"""Both ends of a child process: ask, wait no longer than a deadline, learn how it died; answer.

    parent -> child     {"do": "..", ..}                                    one JSON object a line
    child -> parent     {"ok": {..}} or {"error": "..", "kind": ".."}

A crash, a hang or a leak costs one answer. Nothing is inherited by fork and nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import refstack
from refstack.errors import RefstackError, UsageError

if TYPE_CHECKING:
    from typing import Self

POOLS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS", "NUMEXPR_NUM_THREADS",
    "POCL_MAX_PTHREAD_COUNT",
)  # fmt: skip


class ChildFailed(Exception):
    """A child did not answer as it should. `status` is failed or timeout; `died` says that it ended by itself."""

    def __init__(self, status: str, reason: str, died: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.died = status, reason, died


class Worker:
    """A child process and its two pipes. Use as a context manager, or call `close`."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  close() closes it
        # Its own session: Ctrl-C reaches the parent alone, which then ends its children.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0,
            env=environment(threads), start_new_session=True,
        )  # fmt: skip
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def send(self, do: str, **arguments: Any) -> None:
        """Put a command into the pipe."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead: `receive` says how
            self._process.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The answer to the command sent before.

        Raises      ChildFailed     an error, a crash, or no answer in time; the child is gone after the last two
        """
        line = self._line(timeout_s)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ChildFailed("failed", f"{reply['kind']}: {reply['error']}")
        answer: dict[str, Any] = reply["ok"]
        return answer

    def ask(self, do: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Send and receive."""
        self.send(do, **arguments)
        return self.receive(timeout_s)

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.close()
                raise ChildFailed("timeout", f"no answer within {timeout_s:g} s")
            chunk = os.read(pipe, 1 << 20)
            if not chunk:
                raise ChildFailed("failed", self._death(), died=True)
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _death(self) -> str:
        """How a child that closed its pipe ended, with its last words."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        self._stderr.seek(0)
        words = [line for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        if code is not None and code < 0:
            how = f"crashed with {signal.Signals(-code).name}"
        else:
            how = f"ended with exit status {code}"
        return f"the process {how}" + (f": {words[-1]:.300}" if words else "")

    def close(self) -> None:
        """End the child and give its pipes back; may be called twice."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()


def environment(threads: int) -> dict[str, str]:
    """The caller's, with every thread pool held to `threads` and this very refstack importable."""
    home = str(Path(refstack.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    # PYTHONSAFEPATH: a numpy.py in the current folder must not be imported.
    return os.environ | {name: str(threads) for name in POOLS} | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def serve(session: Any, commands: Sequence[str]) -> None:
    """Answer commands with the session's methods of the same names, until the parent closes the pipe or dies."""
    # Whatever a library prints goes to stderr: the replies have the pipe for themselves.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        replies.write(json.dumps(strict(_answer(session, commands, json.loads(line))), allow_nan=False) + "\n")
        replies.flush()


def _answer(session: Any, commands: Sequence[str], request: dict[str, Any]) -> dict[str, Any]:
    do = request.pop("do")
    if do not in commands:
        raise UsageError(f"child: unknown command {do!r}")
    try:
        return {"ok": getattr(session, do)(**request)}
    except RefstackError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except MemoryError:
        return {"error": "no memory left", "kind": "ResourceError"}


def strict(value: Any) -> Any:
    """The same value as strict JSON can hold it: NaN and infinity become None, tuples lists, NumPy numbers Python's."""
    if isinstance(value, Mapping):
        return {str(key): strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def memory_bytes(field: str) -> int | None:
    """A line of /proc/self/status in bytes: VmRSS now, VmHWM its peak. None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def reset_peak() -> str:
    """Start VmHWM anew. What a peak is measured from, in words."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return "start of the process"
    return "baseline"
