"""Files that grow line by line: written to their end, and vouched for as far as a checkpoint has recorded them."""

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
    """Whether a file still begins as a checkpoint recorded it.

    Args:
        path: Of the file.
        length: Bytes that the checkpoint recorded.
        sha256: Of these bytes; None where it was not recorded: then only the length is looked at.

    Returns:
        The digest, to which what follows can be added.

    Raises:
        RunError: It does not.
    """
    try:
        there, found = _digest(path, length)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    if there < length:
        raise RunError(f"{path} is shorter than the checkpoint says: {there:,} of {length:,} bytes are left")
    if sha256 is not None and found.hexdigest() != sha256:
        raise RunError(
            f"{path} is damaged or was edited: its first {length:,} bytes are not those that the checkpoint recorded"
        )
    return found


def _digest(path: Path, length: int) -> tuple[int, hashlib._Hash]:
    """How many of its first bytes there are, and their SHA-256."""
    digest, left = hashlib.sha256(), length
    if not length:
        return 0, digest
    if not path.is_file():  # a pipe is not waited for
        raise OSError(errno.ENOENT, "it is missing, or no ordinary file")
    with path.open("rb") as file:
        while left and (part := file.read(min(left, _CHUNK))):
            digest.update(part)
            left -= len(part)
    return length - left, digest


class GrowingFile:
    """A file that is appended to, and cut back to a known length when a run is resumed.

    Args:
        path: Made if it is not there.
        length: What precedes belongs to the steps done; what follows is cut off.
        sha256: Of what precedes; None where it is not known.

    Raises:
        RunError: The file has lost some of it, or it is not what it was.
        WriteError: It cannot be written.
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
        """Write to the end; a reader sees it at once."""
        content = text.encode("utf-8", "backslashreplace")
        try:
            write_all(self._handle, content)
        except OSError as error:
            raise self._failed(error) from error
        self._length += len(content)
        self._digest.update(content)

    def append_row(self, row: MetricsRow) -> None:
        """A record on a line of its own."""
        self.append(json.dumps(row.to_json(), allow_nan=False) + "\n")

    @property
    def length(self) -> int:
        """Bytes written so far, synced to the disk."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise self._failed(error) from error
        return self._length

    @property
    def sha256(self) -> str:
        """Of the bytes written so far."""
        return self._digest.hexdigest()

    def restore_if_deleted(self, path: Path) -> bool:
        """Write the file again where somebody deleted it; what it held is still in the open handle.

        Args:
            path: Where it belongs now.

        Returns:
            Whether it was deleted.

        Raises:
            RunError: Another file has taken its place.
            WriteError: It cannot be written.
        """
        self.path = path
        try:
            there = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            self._write_again()
            return True
        except OSError as error:
            raise self._failed(error) from error
        if not os.path.samestat(there, os.fstat(self._handle)) or there.st_size != self._length:
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
