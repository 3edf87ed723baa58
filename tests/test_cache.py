"""Downloads, against a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minigpt import cache
from minigpt.cache import RemoteFile
from minigpt.components.dataset.tinyshakespeare import TinyShakespeare
from minigpt.errors import DataError

CONTENT = b"To be, or not to be\n" * 1000


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        body = {"/right": CONTENT, "/wrong": CONTENT[::-1], "/long": CONTENT * 3, "/short": CONTENT[:-5], "/cut": CONTENT}[
            self.path
        ]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100] if self.path == "/cut" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def remote(url: str) -> RemoteFile:
    return RemoteFile("corpus.txt", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_a_download_is_checked_kept_and_not_repeated(server: str) -> None:
    file = remote(f"{server}/right")
    assert not cache.cached(file)
    assert cache.read(file, "?") == CONTENT
    assert cache.cached(file)
    assert cache.read(RemoteFile(file.name, "http://127.0.0.1:9/gone", file.size, file.sha256), "?") == CONTENT


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", r"could not be downloaded from .*/missing \(HTTP 404\); do this"),
        ("/wrong", "did not give corpus.txt: SHA-256 .* is expected; do this"),
        ("/short", "19,995 bytes where 20,000 are expected"),
        ("/long", "bytes where 20,000 are expected"),
        ("/cut", r"could not be downloaded from .*\(ChunkedEncodingError|ConnectionError|ProtocolError"),
    ],
)
def test_a_download_that_goes_wrong_leaves_nothing_and_says_how_to_go_on(server: str, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cache.read(remote(server + path), "do this")
    assert not remote(server).path.exists()
    folder = remote(server).path.parent
    assert not folder.exists() or list(folder.iterdir()) == []


def test_without_a_network_the_way_on_is_named() -> None:
    with pytest.raises(
        DataError, match=r"could not be downloaded .*minigpt data add tinyshakespeare FILE.*experiments/quickstart.json"
    ):
        TinyShakespeare().load()


def test_a_damaged_file_in_the_cache_is_found(server: str) -> None:
    file = remote(f"{server}/right")
    cache.read(file, "?")
    file.path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match="is damaged: SHA-256 .* delete it and try again, or do this"):
        cache.read(file, "do this")


def test_a_copy_of_the_users_is_added_after_the_same_check(tmp_path: Path) -> None:
    file = remote("http://127.0.0.1:9/")
    (tmp_path / "right").write_bytes(CONTENT)
    (tmp_path / "wrong").write_bytes(CONTENT + b"x")
    with pytest.raises(DataError, match="is not corpus.txt: 20,001 bytes where 20,000 are expected; nothing was added"):
        cache.add(file, tmp_path / "wrong")
    with pytest.raises(DataError, match="nowhere cannot be read: No such file"):
        cache.add(file, tmp_path / "nowhere")
    assert not cache.cached(file)
    assert cache.add(file, tmp_path / "right").read_bytes() == CONTENT
    assert cache.cached(file)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "right").write_bytes(CONTENT)
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written: .*; set MINIGPT_CACHE to another folder"):
        cache.add(remote("http://127.0.0.1:9/"), tmp_path / "right")
