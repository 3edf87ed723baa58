"""A lock that keeps other processes out of a folder; the system frees it when its holder dies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from minigpt.errors import RunError, UnreadableError, WriteError
from minigpt.system.files import discard, read_bytes, write_text

_ATTEMPTS = 20  # to create the lock's folder while other processes, whose runs left no folder, remove it
_OWNER_WRITES_WITHIN = 0.5  # seconds from taking the lock to writing who has it
_IS_HELD_SECONDS = 0.3  # longest time that a call of `is_held` in another process holds the lock


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes. The lock is a hidden file beside it, which stays if the folder is renamed.

    If the folder does not exist at the end, the lock and the folders created for it are removed.

    Raises:
        RunError: Another process holds it; the message has its id.
        WriteError: The lock cannot be created or opened.
    """
    _check_name(folder)
    owner = _beside(folder, "owner")
    lock = FileLock(_beside(folder, "lock"), timeout=_IS_HELD_SECONDS)
    absent = [above for above in folder.parents if not above.exists()]
    try:
        _acquire(lock, folder.parent)
    except Timeout as error:
        raise RunError(f"{folder} is in use by {_holder(owner)}; wait for it, or stop it") from error
    except OSError as error:
        raise WriteError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        write_text(owner, f"{os.getpid()}\n")
        yield
    finally:
        discard(owner)
        if not folder.exists():  # while the lock is held: a waiting process sees that the file is gone, and makes a new one
            discard(_beside(folder, "lock"))
        lock.release()
        with suppress(OSError):  # stops at the first folder that is not empty
            for above in absent:
                above.rmdir()


def _check_name(folder: Path) -> None:
    """Refuse a path that safetensors could write to but not read from."""
    try:
        str(folder.absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RunError(f"{folder} cannot be used: its path is not UTF-8. Choose another place with --out") from error


def _acquire(lock: FileLock, beside: Path) -> None:
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            beside.mkdir(parents=True, exist_ok=True)  # fails if a folder above is removed meanwhile
            lock.acquire()
            return
        except FileNotFoundError:  # the previous holder has just removed the empty folder
            if not attempts_left:
                raise


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder now.

    Raises:
        RunError: The lock cannot be opened.
    """
    if not _beside(folder, "lock").exists():
        return False
    lock = FileLock(_beside(folder, "lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise RunError(f"{_beside(folder, 'lock')} cannot be opened: {error.strerror}") from error
    lock.release()
    return False


def _beside(folder: Path, ending: str) -> Path:
    place = Path(os.path.realpath(folder))  # one lock for all names and links of a folder
    return place.with_name(f".{place.name}.{ending}")


def _holder(owner: Path) -> str:
    """The process that holds the lock, as it recorded; waits a moment, because it may have just taken the lock."""
    until = time.monotonic() + _OWNER_WRITES_WITHIN
    while time.monotonic() < until:
        try:
            recorded = read_bytes(owner, 100).decode("ascii", "replace").strip()
        except UnreadableError:
            recorded = ""
        if recorded:
            return f"process {recorded}"
        time.sleep(0.01)
    return "another process"
