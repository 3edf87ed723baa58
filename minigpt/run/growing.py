"""Files that grow line by line. A checkpoint records their length and SHA-256, with which they are checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

from minigpt.errors import RunError, WriteError
from minigpt.run.recorded import MetricsRow
from minigpt.system.files import open_growing, write_all, write_new

_CHUNK = 1 << 20


def check_beginning(path: Path, length: int, sha256: str | None) -> hashlib._Hash:
    """Check that a file still begins with the bytes that a checkpoint recorded.

    Args:
        path: The file.
        length: The length that the checkpoint recorded, in bytes.
        sha256: SHA-256 of these bytes; None if it was not recorded. Then only the length is checked.

    Returns:
        The digest of these bytes, which can be updated with the bytes that follow.

    Raises:
        RunError: The file is shorter, or its first bytes differ.
    """
    try:
        available, digest = _digest(path, length)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    if available < length:
        raise RunError(f"{path} is shorter than the checkpoint recorded: {available:,} of {length:,} bytes are left")
    if sha256 is not None and digest.hexdigest() != sha256:
        raise RunError(
            f"{path} is damaged or was edited: its first {length:,} bytes differ from those that the checkpoint recorded"
        )
    return digest


def _digest(path: Path, length: int) -> tuple[int, hashlib._Hash]:
    """The number of bytes among the first `length` that exist, and their SHA-256."""
    digest, left = hashlib.sha256(), length
    if not length:
        return 0, digest
    if not path.is_file():  # reading a pipe would wait
        raise OSError(errno.ENOENT, "it is missing, or is not a regular file")
    with path.open("rb") as file:
        while left and (part := file.read(min(left, _CHUNK))):
            digest.update(part)
            left -= len(part)
    return length - left, digest


class GrowingFile:
    """A file for appending, which is truncated to a known length when a run is resumed.

    Args:
        path: The file; it is made if it does not exist.
        length: The first `length` bytes belong to the updates done; later bytes are cut off.
        sha256: SHA-256 of the first `length` bytes; None if unknown.

    Raises:
        RunError: The file is shorter, or its first bytes differ.
        WriteError: The file cannot be written.
    """

    def __init__(self, path: Path, length: int, sha256: str | None = None):
        self.path, self._length = path, length
        try:
            self._handle = open_growing(path)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._digest = check_beginning(path, length, sha256)
            os.ftruncate(self._handle, length)
        except RunError:
            os.close(self._handle)
            raise
        except OSError as error:
            os.close(self._handle)
            raise self._failed(error) from error

    def append(self, text: str) -> None:
        """Append text; it is visible to readers at once."""
        content = text.encode("utf-8", "backslashreplace")
        try:
            write_all(self._handle, content)
        except OSError as error:
            raise self._failed(error) from error
        self._length += len(content)
        self._digest.update(content)

    def append_row(self, row: MetricsRow) -> None:
        """Append a record as one line."""
        self.append(json.dumps(row.to_json(), allow_nan=False) + "\n")

    @property
    def length(self) -> int:
        """Number of bytes written so far; they are synced to the disk first."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise self._failed(error) from error
        return self._length

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes written so far."""
        return self._digest.hexdigest()

    def restore_if_deleted(self, path: Path) -> bool:
        """Write the file again if it was deleted. The open handle still has its content.

        Args:
            path: Where the file belongs now.

        Returns:
            Whether the file was deleted.

        Raises:
            RunError: Another file has taken its place.
            WriteError: The file cannot be written.
        """
        self.path = path
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            self._write_again()
            return True
        except OSError as error:
            raise self._failed(error) from error
        if not os.path.samestat(status, os.fstat(self._handle)) or status.st_size != self._length:
            raise RunError(f"{path} was replaced or changed while the run wrote to it")
        return False

    def _write_again(self) -> None:
        try:
            os.lseek(self._handle, 0, os.SEEK_SET)
            parts = []
            while part := os.read(self._handle, _CHUNK):
                parts.append(part)
            write_new(self.path, b"".join(parts))
            os.close(self._handle)
            self._handle = open_growing(self.path)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *of_error: object) -> None:
        try:
            os.close(self._handle)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> WriteError:
        return WriteError(f"{self.path} cannot be written: {error.strerror}")
