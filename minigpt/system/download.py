"""Files that are downloaded once, checked by SHA-256, and then put into the user's cache.

Received bytes are kept as `NAME.part` beside the file, so that an interrupted download resumes (RFC 9110, section 14), even
after its process was killed. `NAME.lock` is held meanwhile: another process waits for it, and then finds the file.
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
"""Time to connect to a server, and time from one byte to the next."""

_ANSWER_SECONDS = 60.0
"""Time until the last header has arrived, including redirects."""

_WINDOW_SECONDS, _LEAST_BYTES_A_SECOND = 30.0, 1024
"""Below this rate for this time a download is given up, because it would take hours."""

_ATTEMPTS = 4

_BACK_OFF_SECONDS = 1.0
"""Wait before the second attempt; doubled before each later one."""

_LONGEST_WAIT_SECONDS = 30.0
"""A server that asks for a longer wait (Retry-After) gets no further attempt."""

_LARGE = 1 << 26
"""Largest user's copy that is read to describe how it differs; a larger file is rejected by size."""

_LOCK_SECONDS = 600.0
"""Wait for another process that downloads the same file."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the network that never changes.

    Attributes:
        name: Its name in the cache.
        url: Its address.
        size: Its size in bytes.
        sha256: Of its content, in hexadecimal.
    """

    name: str
    url: str
    size: int
    sha256: str

    @property
    def path(self) -> Path:
        """Its path in the cache, whether it is there or not."""
        return cache_folder() / "data" / self.name


class _TransientError(Exception):
    """A failure that may pass when the server is asked again.

    Attributes:
        wait: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _PermanentError(Exception):
    """A failure that asking again would not fix."""


def cache_folder() -> Path:
    """`$MINIGPT_CACHE`, or the operating system's folder for caches."""
    override = os.environ.get("MINIGPT_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("minigpt", appauthor=False))


def cached(remote: RemoteFile) -> bool:
    """Whether the file is in the cache and complete."""
    return _whole(remote) is not None


def read(remote: RemoteFile, next_step: str) -> bytes:
    """The content, from the cache or the network; a damaged file in the cache is replaced, never used.

    Args:
        remote: The file to read.
        next_step: End of the error message if neither has it.

    Raises:
        DataError: It could not be downloaded, or has other content than expected.
    """
    content = _whole(remote)
    return fetch(remote, next_step) if content is None else content


def fetch(remote: RemoteFile, next_step: str) -> bytes:
    """Download into the cache, unless another process does so at the same time.

    Raises:
        DataError: No network, an error of the server, unexpected content, or no place to store it. The next call resumes
            with the bytes that were right.
    """
    from filelock import FileLock, Timeout

    try:
        remote.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(remote.path.with_name(f"{remote.name}.lock"), timeout=_LOCK_SECONDS):
            content = _whole(remote)
            return _download(remote) if content is None else content
    except _PermanentError as failure:
        message = f"{remote.name} could not be downloaded from {remote.url} ({failure}){_kept_bytes(remote)}; {next_step}"
        raise DataError(message) from failure
    except Timeout as error:
        message = f"another process has been downloading {remote.name} for {_LOCK_SECONDS:.0f} seconds; wait for it"
        raise DataError(f"{message}, or {next_step}") from error
    except OSError as error:
        raise _cannot_be_written(remote, error) from error


def add(remote: RemoteFile, file: Path) -> Path:
    """Put a user's copy of the file into the cache, after the same check.

    Raises:
        DataError: The copy cannot be read, or is another file.
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
        _part(remote).unlink(missing_ok=True)  # of a download that is no longer needed
    except WriteError as error:
        raise DataError(f"{error}; {_CHANGE_CACHE}") from error
    except OSError as error:
        raise _cannot_be_written(remote, error) from error
    return remote.path


def _download(remote: RemoteFile) -> bytes:
    """Try several times, with twice the wait from one attempt to the next."""
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
    """Request the missing bytes; put the complete file in place if its content is right."""
    part = _part(remote)
    pieced = _receive(remote, part) if _size(part) < remote.size else True
    content = part.read_bytes()
    problem = _mismatch(remote, content)
    if problem:
        part.unlink()
        # Pieces may be of different files, or damaged: that may pass. A file in one piece is what the server has.
        raise (_TransientError if pieced else _PermanentError)(f"the server has another file: {problem}")
    _put_in_place(part, remote.path)
    return content


def _receive(remote: RemoteFile, part: Path) -> bool:
    """Write one response of the server to the part; returns whether it continued the existing bytes."""
    start = _size(part)
    with _answer(remote.url, start) as response:
        pieced = _is_continuation(remote, response, part, start)
        with os.fdopen(open_growing(part) if pieced and start else open_fresh(part), "ab") as file:
            for chunk in _chunks(response, remote.size - file.tell()):
                if file.tell() + len(chunk) > remote.size:
                    part.unlink()
                    problem = f"the server has another file: more than the expected {remote.size:,} bytes"
                    raise (_TransientError if pieced else _PermanentError)(problem)
                file.write(chunk)
                file.flush()  # so that a process killed now leaves these bytes
    if _size(part) < remote.size:
        raise _TransientError("the response was interrupted")
    return pieced


def _answer(url: str, start: int) -> Response:
    """The server's response up to its body, which is not read yet.

    A thread waits for it, because a socket's time-out is from byte to byte and does not limit headers that come one by one.
    """
    import requests
    from urllib3.exceptions import HTTPError

    # A range counts encoded bytes, so the server must not encode the content.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    answers: queue.SimpleQueue[Response | _TransientError | _PermanentError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(requests.get(url, headers=headers, timeout=(_CONNECT_SECONDS, _READ_SECONDS), stream=True))
        except (OSError, ValueError, HTTPError) as error:  # ValueError: a redirect to an invalid address
            answers.put(_failure(error, _root(error)))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise _TransientError("timed out") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _is_continuation(remote: RemoteFile, response: Response, part: Path, start: int) -> bool:
    """Whether the body continues at `start` (206) or is the whole file (200)."""
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
        part.unlink(missing_ok=True)  # the next attempt requests the whole file
        raise _TransientError(f"HTTP {status}, not the bytes from {start:,} on")
    wait = _retry_after(headers.get("Retry-After", ""))
    if status < 500 and status not in (408, 425, 429):
        raise _PermanentError(f"HTTP {status}")
    if wait > _LONGEST_WAIT_SECONDS:
        raise _PermanentError(f"HTTP {status}, with no further request for {wait:,.0f} seconds")
    raise _TransientError(f"HTTP {status}", wait)


def _chunks(response: Response, missing: int) -> Iterator[bytes]:
    """The body in pieces as it arrives, if it is fast enough."""
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
    """The failure in one line, as permanent or transient."""
    import http.client
    import socket
    import ssl

    import requests
    from urllib3.exceptions import HTTPError

    text = getattr(root, "strerror", None) or str(root) or type(root).__name__
    if isinstance(root, http.client.IncompleteRead):
        text = "the response was interrupted"
    reason = " ".join("".join(each if each.isprintable() else " " for each in text[:200]).split())
    if isinstance(root, socket.gaierror | ssl.SSLCertVerificationError):  # no network, or another server's certificate
        return _PermanentError(reason)
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, HTTPError)
    return _TransientError(reason) if isinstance(error, passing) else _PermanentError(reason)


def _retry_after(value: str) -> float:
    """Seconds to wait, from a number or a date (RFC 9110, section 10.2.3); 0 for any other value."""
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _part(remote: RemoteFile) -> Path:
    return remote.path.with_name(f"{remote.name}.part")


def _size(file: Path) -> int:
    """Bytes in the file; 0 for a link, so that nothing is appended to another file."""
    return os.lstat(file).st_size if is_own(file) else 0


def _whole(remote: RemoteFile) -> bytes | None:
    """The content, if the file in the cache is readable and right."""
    try:
        content = read_bytes(remote.path, remote.size)
    except UnreadableError:
        return None
    return content if _mismatch(remote, content) is None else None


def _mismatch(remote: RemoteFile, content: bytes) -> str | None:
    if len(content) != remote.size:
        return _wrong_size(len(content), remote)
    digest = hashlib.sha256(content).hexdigest()
    return None if digest == remote.sha256 else f"SHA-256 is {digest}, expected {remote.sha256}"


def _wrong_size(size: int, remote: RemoteFile) -> str:
    return f"{size:,} bytes, expected {remote.size:,}"


def _kept_bytes(remote: RemoteFile) -> str:
    """Text about kept bytes for the next call, and about an unusable file in the cache."""
    kept = _size(_part(remote))
    text = f"; {kept:,} of {remote.size:,} bytes are kept, and the next call resumes there" if kept else ""
    return text + (f"; {remote.path} is damaged or cannot be read" if remote.path.exists() else "")


def _put_in_place(temporary: Path, path: Path) -> None:
    """Give a file its name after its content is on the disk, so that after a crash the name has the complete file."""
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


_CHANGE_CACHE = "set MINIGPT_CACHE to another folder"


def _cannot_be_written(remote: RemoteFile, error: OSError) -> DataError:
    return DataError(f"{remote.path} cannot be written: {error.strerror or error}; {_CHANGE_CACHE}")
