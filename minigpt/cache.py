"""Files that are downloaded once: fetched, checked against their SHA-256, and only then put into the user's cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from minigpt.errors import DataError

_CONNECT_SECONDS, _READ_SECONDS = 10, 30


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


def cache_folder() -> Path:
    """`$MINIGPT_CACHE`, or the place the operating system has for caches."""
    override = os.environ.get("MINIGPT_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("minigpt", appauthor=False))


def cached(remote: RemoteFile) -> bool:
    """Whether the file is in the cache and whole."""
    return remote.path.is_file() and _mismatch(remote, remote.path.read_bytes()) is None


def read(remote: RemoteFile, how_to_go_on: str) -> bytes:
    """The content, from the cache or the network.

    Args:
        remote: What to read.
        how_to_go_on: Said when it can be had from neither.

    Raises:
        DataError: It could not be downloaded, or is not what it should be.
    """
    if remote.path.is_file():
        content = remote.path.read_bytes()
        problem = _mismatch(remote, content)
        if problem is None:
            return content
        raise DataError(f"{remote.path} is damaged: {problem}; delete it and try again, or {how_to_go_on}")
    return fetch(remote, how_to_go_on)


def fetch(remote: RemoteFile, how_to_go_on: str) -> bytes:
    """Download into the cache.

    Raises:
        DataError: No network, an error of the server, or not the content that was promised; nothing is kept then.
    """
    import requests  # here, so that only a download pays for its import

    content = bytearray()
    try:
        with requests.get(remote.url, timeout=(_CONNECT_SECONDS, _READ_SECONDS), stream=True) as response:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 16):
                content += chunk
                if len(content) > remote.size:
                    break  # too long is wrong already; do not let a server fill the memory
    except requests.RequestException as error:
        reason = type(error).__name__ if error.response is None else f"HTTP {error.response.status_code}"
        raise DataError(f"{remote.name} could not be downloaded from {remote.url} ({reason}); {how_to_go_on}") from error
    problem = _mismatch(remote, bytes(content))
    if problem:
        raise DataError(f"{remote.url} did not give {remote.name}: {problem}; {how_to_go_on}")
    _keep(remote, bytes(content))
    return bytes(content)


def add(remote: RemoteFile, file: Path) -> Path:
    """Put a copy that the user has into the cache, after the same check.

    Raises:
        DataError: It cannot be read or is another file.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    problem = _mismatch(remote, content)
    if problem:
        raise DataError(f"{file} is not {remote.name}: {problem}; nothing was added")
    _keep(remote, content)
    return remote.path


def _mismatch(remote: RemoteFile, content: bytes) -> str | None:
    if len(content) != remote.size:
        return f"{len(content):,} bytes where {remote.size:,} are expected"
    digest = hashlib.sha256(content).hexdigest()
    return None if digest == remote.sha256 else f"SHA-256 {digest} where {remote.sha256} is expected"


def _keep(remote: RemoteFile, content: bytes) -> None:
    """Write to a temporary name first: a reader sees the whole file or none."""
    try:
        remote.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=remote.path.parent, prefix=f".{remote.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, remote.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"{remote.path} cannot be written: {error.strerror}; set MINIGPT_CACHE to another folder") from error
