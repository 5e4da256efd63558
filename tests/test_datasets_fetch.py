"""Fetching the official archive: only what has the published checksum stays, and every failure says what to do."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from refstack.datasets import ARCHIVE, URL, fetch, find, load
from refstack.errors import ChecksumError, DataError


def archive() -> bytes:
    """A test batch of one black airplane, packed like the official archive."""
    out, info = io.BytesIO(), tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
    info.size = 3073
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(info, io.BytesIO(bytes(3073)))
    return gzip.compress(out.getvalue(), mtime=0)


CONTENT = archive()
HASH = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFSTACK_DATA_DIR", str(tmp_path / "données ici"))
    monkeypatch.delenv("REFSTACK_OFFLINE", raising=False)
    return tmp_path / "données ici"


@pytest.fixture
def server() -> Iterator[str]:
    """Serves CONTENT as /whole, its first half as /cut (announced in full), and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in ("/whole", "/cut") else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            if "gzip" in self.headers["Accept-Encoding"]:  # the client would unpack what it asked for
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

        def log_message(self, *args: object) -> None:
            """Keep the test output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_fetch_then_load_without_network(folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find() is None
    path = fetch(f"{server}/whole", HASH)
    assert path == find() == folder / ARCHIVE
    assert path.read_bytes() == CONTENT
    assert len(load(path)) == 1
    monkeypatch.setenv("REFSTACK_OFFLINE", "1")
    assert fetch(f"{server}/none", HASH) == path
    path.unlink()
    assert find() is None
    with pytest.raises(DataError, match=f"{ARCHIVE}: not there, and REFSTACK_OFFLINE forbids the download; unset it,"):
        fetch(f"{server}/whole", HASH)
    unpacked = folder / "cifar-10-batches-bin"
    unpacked.mkdir()
    (unpacked / "test_batch.bin").write_bytes(bytes(3073))
    assert find() == unpacked
    assert len(load(unpacked)) == 1


def test_fetch_keeps_nothing_bad(folder: Path, server: str, tmp_path: Path) -> None:
    wrong = "md5:" + "0" * 32
    with pytest.raises(ChecksumError, match=rf"/whole: wrong content, wanted {wrong} .*nothing was kept"):
        fetch(f"{server}/whole", wrong)
    (tmp_path / "copy").write_bytes(CONTENT[:-1])
    with pytest.raises(ChecksumError, match="copy: wrong content"):
        fetch(str(tmp_path / "copy"), HASH)
    for url in (f"{server}/cut", f"{server}/none", "http://127.0.0.1:9/closed", "nonsense://a"):
        with pytest.raises(DataError, match=f"{url}: cannot be fetched .*; download {URL} elsewhere and put it"):
            fetch(url, HASH)
    with pytest.raises(DataError, match="cannot be fetched to"):
        fetch(f"{server}/whole", HASH, tmp_path / "copy" / "below a file")
    assert find() is None
    assert list(folder.iterdir()) == []
    (folder / ARCHIVE).write_bytes(b"half a download")
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch(f"{server}/none", HASH)
    assert find() is None
    assert (folder / f"{ARCHIVE}.bad").read_bytes() == b"half a download"
    assert fetch(f"{server}/whole", HASH).read_bytes() == CONTENT


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_fetch_takes_a_copy(folder: Path, tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSTACK_OFFLINE", "1")
    copy = tmp_path / "à la main.tar.gz"
    copy.write_bytes(CONTENT)
    assert fetch(f"{scheme}{copy}", HASH).read_bytes() == CONTENT
    with pytest.raises(DataError, match="neither a file nor a folder"):
        fetch(f"{scheme}/dev/zero", HASH, tmp_path / "other")
