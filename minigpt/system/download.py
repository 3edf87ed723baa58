"""Files that are downloaded once: fetched, checked against their SHA-256, and only then put into the user's cache.

What has arrived is kept as `NAME.part` beside the file, so that a download that broke off, or whose process was killed,
goes on from there (RFC 9110, section 14). `NAME.lock` is held meanwhile: another process waits, and then finds the file.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from minigpt.errors import DataError, UnreadableError, WriteError, count
from minigpt.system.files import is_own, open_fresh, open_growing, read_bytes, write_bytes

if TYPE_CHECKING:
    from requests import Response

_CONNECT_SECONDS, _READ_SECONDS = 10.0, 30.0
"""Until a server is reached; and from one byte to the next."""

_ANSWER_SECONDS = 60.0
"""Until the last header has arrived, over all redirects."""

_WINDOW_SECONDS, _LEAST_BYTES_A_SECOND = 30.0, 1024
"""Below that rate for that long, a download is given up: it would take hours."""

_ATTEMPTS = 4

_BACK_OFF_SECONDS = 1.0
"""Before the second attempt; doubled before each one after it."""

_LONGEST_WAIT_SECONDS = 30.0
"""A server that wants to be left alone for longer (Retry-After) is not asked again."""

_LARGE = 1 << 26
"""Bytes of a copy of the user's that are read to say how it differs; more is another file without reading."""

_LOCK_SECONDS = 600.0
"""For another process that downloads the same file."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the network that never changes.

    Attributes:
        name: Its name in the cache.
        url: Where it is.
        size: Bytes.
        sha256: Of its content, in hexadecimal.
    """

    name: str
    url: str
    size: int
    sha256: str

    @property
    def path(self) -> Path:
        """Where it is, or would be, in the cache."""
        return cache_folder() / "data" / self.name


class _TransientError(Exception):
    """What may have passed when the server is asked again.

    Attributes:
        wait: Seconds that the server wants to be left alone.
    """

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _PermanentError(Exception):
    """What asking again would not mend."""


def cache_folder() -> Path:
    """`$MINIGPT_CACHE`, or the place the operating system has for caches."""
    override = os.environ.get("MINIGPT_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("minigpt", appauthor=False))


def cached(remote: RemoteFile) -> bool:
    """Whether the file is in the cache and whole."""
    return _whole(remote) is not None


def read(remote: RemoteFile, how_to_go_on: str) -> bytes:
    """The content, from the cache or the network; a damaged file in the cache is replaced, never used.

    Args:
        remote: What to read.
        how_to_go_on: Said when it can be had from neither.

    Raises:
        DataError: It could not be downloaded, or is not what it should be.
    """
    content = _whole(remote)
    return fetch(remote, how_to_go_on) if content is None else content


def fetch(remote: RemoteFile, how_to_go_on: str) -> bytes:
    """Download into the cache, unless another process has done so meanwhile.

    Raises:
        DataError: No network, an error of the server, not the content that was promised, or no place to keep it. Of what
            was right so far, the next call goes on.
    """
    from filelock import FileLock, Timeout

    try:
        remote.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(remote.path.with_name(f"{remote.name}.lock"), timeout=_LOCK_SECONDS):
            content = _whole(remote)
            return _download(remote) if content is None else content
    except _PermanentError as failure:
        told = f"{remote.name} could not be downloaded from {remote.url} ({failure}){_what_is_here(remote)}; {how_to_go_on}"
        raise DataError(told) from failure
    except Timeout as error:
        told = f"another process has been downloading {remote.name} for {_LOCK_SECONDS:.0f} seconds; wait for it"
        raise DataError(f"{told}, or {how_to_go_on}") from error
    except OSError as error:
        raise _cannot_be_written(remote, error) from error


def add(remote: RemoteFile, file: Path) -> Path:
    """Put a copy that the user has into the cache, after the same check.

    Raises:
        DataError: It cannot be read or is another file.
    """
    try:
        content = read_bytes(file, max(remote.size, _LARGE))
    except UnreadableError as error:
        raise DataError(str(error)) from error
    problem = _mismatch(remote, content)
    if problem:
        raise DataError(f"{file} is not {remote.name}: {problem}; nothing was added")
    try:
        remote.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(remote.path, content)
        _part(remote).unlink(missing_ok=True)  # of a download that nobody needs any more
    except WriteError as error:
        raise DataError(f"{error}; {_ELSEWHERE}") from error
    except OSError as error:
        raise _cannot_be_written(remote, error) from error
    return remote.path


def _download(remote: RemoteFile) -> bytes:
    """Try several times, waiting twice as long from one to the next."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return _attempt(remote)
        except _TransientError as failure:
            time.sleep(max(failure.wait, _BACK_OFF_SECONDS * 2 ** (attempt - 1)))
    try:
        return _attempt(remote)
    except _TransientError as failure:
        raise _PermanentError(f"{failure}; {count(_ATTEMPTS, 'attempt')}") from failure


def _attempt(remote: RemoteFile) -> bytes:
    """Ask for what is missing; put the whole in place if it is what was promised."""
    part = _part(remote)
    pieced = _receive(remote, part) if _size(part) < remote.size else True
    content = part.read_bytes()
    problem = _mismatch(remote, content)
    if problem:
        part.unlink()
        # Pieces may be of different files, or damaged: that may pass. In one piece, it is what the server has.
        raise (_TransientError if pieced else _PermanentError)(f"the server has another file: {problem}")
    _put_in_place(part, remote.path)
    return content


def _receive(remote: RemoteFile, part: Path) -> bool:
    """Write one answer of the server to the part; returns whether it went on from what was there."""
    start = _size(part)
    with _answer(remote.url, start) as response:
        pieced = _goes_on(remote, response, part, start)
        with os.fdopen(open_growing(part) if pieced and start else open_fresh(part), "ab") as file:
            for chunk in _chunks(response, remote.size - file.tell()):
                if file.tell() + len(chunk) > remote.size:
                    part.unlink()
                    problem = f"the server has another file: more than the {remote.size:,} bytes that are expected"
                    raise (_TransientError if pieced else _PermanentError)(problem)
                file.write(chunk)
                file.flush()  # a process that is killed now loses nothing
    if _size(part) < remote.size:
        raise _TransientError("the answer broke off")
    return pieced


def _answer(url: str, start: int) -> Response:
    """The server's answer up to its body, which is not read yet.

    A thread waits for it, as time-outs of sockets count from byte to byte: they do not end headers that come one by one.
    """
    import requests
    from urllib3.exceptions import HTTPError

    # Ranges are counted in what is sent, so it has to be sent as it is.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    answers: queue.SimpleQueue[Response | _TransientError | _PermanentError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(requests.get(url, headers=headers, timeout=(_CONNECT_SECONDS, _READ_SECONDS), stream=True))
        except (OSError, ValueError, HTTPError) as error:  # ValueError: of a redirect to what is no address
            answers.put(_failure(error, _root(error)))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise _TransientError("timed out") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _goes_on(remote: RemoteFile, response: Response, part: Path, start: int) -> bool:
    """Whether the body goes on from `start` (206) or is the whole (200)."""
    status, headers = response.status_code, response.headers
    encoded = headers.get("Content-Encoding", "identity") != "identity"
    if status == 200:
        length = headers.get("Content-Length", "")
        if re.fullmatch("[0-9]{1,15}", length) and int(length) != remote.size and not encoded:
            raise _PermanentError(f"the server has another file: {_wrong_size(int(length), remote)}")
        return False
    expected = rf"bytes {start}-[0-9]+/({remote.size}|\*)"
    if status == 206 and re.fullmatch(expected, headers.get("Content-Range", "").strip()) and not encoded:
        return True
    if status == 206 or (status == 416 and start):
        part.unlink(missing_ok=True)  # the next attempt asks for the whole
        raise _TransientError(f"HTTP {status}, not the bytes from {start:,} on")
    wait = _retry_after(headers.get("Retry-After", ""))
    if status < 500 and status not in (408, 425, 429):
        raise _PermanentError(f"HTTP {status}")
    if wait > _LONGEST_WAIT_SECONDS:
        raise _PermanentError(f"HTTP {status}, not to be asked again for {wait:,.0f} seconds")
    raise _TransientError(f"HTTP {status}", wait)


def _chunks(response: Response, missing: int) -> Iterator[bytes]:
    """The body as it comes in, as long as it comes fast enough."""
    from urllib3.exceptions import HTTPError

    since, lately = time.monotonic(), 0
    while True:
        try:
            chunk = response.raw.read1(1 << 16, decode_content=True)  # iter_content would wait for a chunk to be full
        except HTTPError as error:
            raise _failure(error, error.__cause__ or error) from error
        if not chunk:
            return
        yield chunk
        missing, lately = missing - len(chunk), lately + len(chunk)
        seconds = time.monotonic() - since
        if seconds > _WINDOW_SECONDS and missing > 0:
            if lately < _LEAST_BYTES_A_SECOND * seconds:
                raise _PermanentError(f"too slow: {count(lately, 'byte')} in {seconds:.0f} seconds")
            since, lately = time.monotonic(), 0


def _root(error: BaseException) -> BaseException:
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return error


def _failure(error: Exception, root: BaseException) -> _TransientError | _PermanentError:
    """What went wrong between here and the server, in one line, and whether it may pass."""
    import http.client
    import socket
    import ssl

    import requests
    from urllib3.exceptions import HTTPError

    text = getattr(root, "strerror", None) or str(root) or type(root).__name__
    if isinstance(root, http.client.IncompleteRead):
        text = "the answer broke off"
    reason = " ".join("".join(each if each.isprintable() else " " for each in text[:200]).split())
    if isinstance(root, socket.gaierror | ssl.SSLCertVerificationError):  # no network, or not whom it claims to be
        return _PermanentError(reason)
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, HTTPError)
    return _TransientError(reason) if isinstance(error, passing) else _PermanentError(reason)


def _retry_after(value: str) -> float:
    """Seconds to wait, which come as a number or as a date (RFC 9110, section 10.2.3); none if it is neither."""
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _part(remote: RemoteFile) -> Path:
    return remote.path.with_name(f"{remote.name}.part")


def _size(file: Path) -> int:
    """Bytes that are there; a link is as if nothing were, so that nobody's file is added to through one."""
    return os.lstat(file).st_size if is_own(file) else 0


def _whole(remote: RemoteFile) -> bytes | None:
    """The content, if it is in the cache, readable and right."""
    try:
        content = read_bytes(remote.path, remote.size)
    except UnreadableError:
        return None
    return content if _mismatch(remote, content) is None else None


def _mismatch(remote: RemoteFile, content: bytes) -> str | None:
    if len(content) != remote.size:
        return _wrong_size(len(content), remote)
    digest = hashlib.sha256(content).hexdigest()
    return None if digest == remote.sha256 else f"SHA-256 {digest} where {remote.sha256} is expected"


def _wrong_size(size: int, remote: RemoteFile) -> str:
    return f"{size:,} bytes where {remote.size:,} are expected"


def _what_is_here(remote: RemoteFile) -> str:
    """After a failure: what the next call can use, and what nothing can."""
    kept = _size(_part(remote))
    told = f"; {kept:,} of {remote.size:,} bytes are kept, and the next call goes on from there" if kept else ""
    return told + (f"; {remote.path} is damaged or cannot be read" if remote.path.exists() else "")


def _put_in_place(temporary: Path, path: Path) -> None:
    """Give a file its name once its content is on the disk: after a crash, too, the name stands for the whole."""
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


_ELSEWHERE = "set MINIGPT_CACHE to another folder"


def _cannot_be_written(remote: RemoteFile, error: OSError) -> DataError:
    return DataError(f"{remote.path} cannot be written: {error.strerror or error}; {_ELSEWHERE}")
