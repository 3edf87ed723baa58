"""Track a run folder during training by an open handle, so that renaming or removing it is noticed.

The handle also has a lock (if the system can lock folders). Unlike the lock file beside the folder, this lock moves with
the folder and cannot be deleted.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from minigpt.errors import RunError

if sys.platform != "win32":
    import fcntl


class Place:
    """A folder that is written to for a long time, held open and locked. A context manager.

    Args:
        path: The path of the folder, which must exist.

    Raises:
        RunError: Another process trains in the folder, or it cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY) if os.name == "posix" else None
            self._status = os.stat(path) if self._handle is None else os.fstat(self._handle)
        except OSError as error:
            raise RunError(f"{path} cannot be opened: {error.strerror}") from error
        self._lock()

    def _lock(self) -> None:
        if sys.platform == "win32" or self._handle is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # the file system cannot lock folders; the lock file beside the folder must suffice
            self._close()
            raise RunError(
                f"{self.path} is in use by another process, whose lock file was removed; stop it first"
            ) from error

    def has_moved(self) -> bool:
        """Whether the path no longer leads to the folder: it was renamed, removed, replaced or unmounted."""
        return not self._is_at(self.path)

    def now(self) -> Path | None:
        """The present path of the folder; None if it cannot be found (only Linux reports where it was moved)."""
        if self._is_at(self.path):
            return self.path
        try:
            moved = Path(os.readlink(f"/proc/self/fd/{self._handle}"))
        except OSError:
            return None
        return moved if self._is_at(moved) else None

    def _is_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.stat(path), self._status)
        except OSError:
            return False

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *of_error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
