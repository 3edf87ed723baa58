"""A file system that fails on purpose: the n-th call that changes a folder raises an error, or writes only half."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
_BY_PATH = ("mkdir", "replace", "rename", "unlink", "rmdir", "truncate")
_BY_HANDLE = ("write", "fsync", "ftruncate", "close")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Faults:
    """Counts the calls that change a folder, and makes one call fail.

    Attributes:
        calls: Names of the calls so far.
    """

    def __init__(self, folder: Path, nth: int | None, error: int):
        self.folder, self.nth, self.error = os.path.realpath(folder), nth, error
        self.calls: list[str] = []
        self.handles: set[int] = set()

    def _is_below(self, path: Any, dir_fd: int | None = None) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        if dir_fd is not None:  # shutil.rmtree uses it
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return os.path.realpath(os.path.dirname(os.path.abspath(path))).startswith(self.folder)

    def count(self, name: str) -> None:
        """Count a call, and raise if it is the call that should fail."""
        self.calls.append(name)
        if len(self.calls) == self.nth:
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Any, flags: int, *arguments: Any, **others: Any) -> int:
        if self._is_below(path, others.get("dir_fd")):
            if flags & _WRITES:
                self.count("open")
            handle = _real["open"](path, flags, *arguments, **others)
            self.handles.add(handle)
            return handle
        return _real["open"](path, flags, *arguments, **others)

    def by_path(self, name: str) -> Any:
        def call(path: Any, *arguments: Any, **others: Any) -> Any:
            if self._is_below(path, others.get("dir_fd")):
                self.count(name)
            return _real[name](path, *arguments, **others)

        return call

    def by_handle(self, name: str) -> Any:
        def call(handle: int, *arguments: Any) -> Any:
            if handle not in self.handles:
                return _real[name](handle, *arguments)
            if name == "close":  # the handle is closed even if the call fails
                self.handles.discard(handle)
                _real[name](handle)
                self.count(name)
                return None
            try:
                self.count(name)
            except OSError:
                if name == "write":  # write half of the content before failing
                    _real[name](handle, bytes(arguments[0])[: len(arguments[0]) // 2])
                raise
            return _real[name](handle, *arguments)

        return call


_real: dict[str, Any] = {name: getattr(os, name) for name in ("open", *_BY_PATH, *_BY_HANDLE)}


@contextmanager
def failing(folder: Path, nth: int | None, error: int = errno.ENOSPC) -> Iterator[Faults]:
    """A context in which the n-th call that changes something under `folder` fails; None only counts."""
    faults = Faults(folder, nth, error)
    patches = [mock.patch.object(os, "open", faults.open)]
    patches += [mock.patch.object(os, name, faults.by_path(name)) for name in _BY_PATH]
    patches += [mock.patch.object(os, name, faults.by_handle(name)) for name in _BY_HANDLE]
    for patch in patches:
        patch.start()
    try:
        yield faults
    finally:
        for patch in patches:
            patch.stop()
