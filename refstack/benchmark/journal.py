"""Results on disk: append-only JSON lines, one finished cell each, that survive kill -9 and a full disk.

    line = {..row.., "crc": crc32 of the row's JSON text}\\n        flushed and fsynced before the next cell is touched

What a crash leaves is at most a torn last line; it is cut off when the file is opened again. Rows of another machine
or build stay in the file under their own `env`, and are never taken for this one's.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from types import TracebackType

from refstack.benchmark.rows import SCHEMA_VERSION, Row, strict
from refstack.errors import FormatError, ResourceError, UsageError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
START = b'{"schema_version":'
CRC = b',"crc":"'


def encode(row: Row) -> bytes:
    """One line. schema_version stands first, the checksum of all before it last."""
    body = json.dumps(strict({"schema_version": SCHEMA_VERSION, **row}), allow_nan=False, separators=(",", ":"))
    return f'{body[:-1]},"crc":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def decode(line: bytes) -> Row | None:
    """The row of a line, or None if it is torn or altered."""
    text = intact(line)
    return None if text is None else json.loads(text)


def intact(line: bytes) -> bytes | None:
    """The JSON text of a line's row, or None if it is not what the checksum is of."""
    body, mark, crc = line.rstrip(b"\n").rpartition(CRC)
    return body + b"}" if mark and crc == f'{zlib.crc32(body + b"}"):08x}"}}'.encode() else None


class Journal:
    """The open file of one run: holds its lock, knows its rows, appends.

    Raises      UsageError      another run writes to it, or it cannot be written
                FormatError     the file is no journal, or a newer refstack's
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self.rows: list[Row] = []
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is not a file; name another --output")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(path, "a+")
        except OSError as error:
            raise _refused(path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
        except BlockingIOError:
            self.close()
            busy = "another run writes to this journal; wait for it, or name another --output"
            raise UsageError(f"{path}: {busy}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back, and with it the lock, which the kernel also frees when the process is killed."""
        self._file.close()

    def set_aside(self) -> Path:
        """Rename the file after the time of its last row, so that the next one starts empty. Its new path."""
        when = datetime.fromtimestamp(self.path.stat().st_mtime, timezone.utc)
        aside = self.path.with_name(f"{self.path.stem}-{when:%Y%m%dT%H%M%S}{self.path.suffix}")
        return self.path.replace(aside)

    def _recover(self) -> None:
        """Read every whole line and cut off a torn last one."""
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        self.rows, self.damaged = read(content[:end], self.path)
        if content[end:] and not (START.startswith(content[end : end + len(START)]) or content[end:].startswith(START)):
            raise FormatError(f"{self.path}: not a journal of refstack bench; name another --output")
        if content[end:]:
            self._file.truncate(end)

    def append(self, row: Row) -> Row:
        """Write one row and wait until it is on disk; the row as it was written. ResourceError changes nothing."""
        line = encode(row)
        before = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(before)
            raise _refused(self.path, error) from None
        written: Row = json.loads(line)
        del written["crc"]
        self.rows.append(written)
        return written


def read(content: bytes, path: Path) -> tuple[list[Row], int]:
    """(rows of whole lines, number of damaged lines).

    Raises      FormatError     the file is no journal, or a newer refstack's
    """
    lines = content.splitlines()
    if lines and not lines[0].startswith(START):
        raise FormatError(f"{path}: not a journal of refstack bench; name another --output")
    rows = [row for line in lines if (row := decode(line)) is not None]
    newest = max((row["schema_version"] for row in rows), default=SCHEMA_VERSION)
    if newest > SCHEMA_VERSION:
        raise FormatError(f"{path}: rows of schema {newest}, this refstack reads {SCHEMA_VERSION}; update refstack")
    return rows, len(lines) - len(rows)


def _refused(path: Path, error: OSError) -> UsageError | ResourceError:
    if error.errno in NO_SPACE:
        return ResourceError(
            f"{path}: cannot write ({error.strerror}); rows written so far are kept: free space, run again"
        )
    return UsageError(f"{path}: cannot be written ({error.strerror}); name another --output")
