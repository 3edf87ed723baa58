"""One process at a folder: a lock that the system frees when its holder dies, however it dies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from minigpt.errors import RunError, UnreadableError, WriteError
from minigpt.system.files import discard, read_bytes, write_text

_ATTEMPTS = 20  # to make the folder of the lock while others, whose runs came to nothing, remove it
_OWNER_WRITES_WITHIN = 0.5  # seconds from taking the lock to saying who has it
_LOOKED_AT_FOR = 0.3  # seconds that one who only looks whether it is held may have it


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes. The lock is a hidden file beside it, and stays when the folder is renamed.

    Where the folder was not made in the meantime, nothing is left of the lock, nor of folders that were made for it.

    Raises:
        RunError: Another process holds it; the message names it.
        WriteError: The lock cannot be made or opened.
    """
    _check_name(folder)
    owner = _beside(folder, "owner")
    lock = FileLock(_beside(folder, "lock"), timeout=_LOOKED_AT_FOR)
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
        if not folder.exists():  # while it is ours: who waits for it sees that the file is gone, and makes a new one
            discard(_beside(folder, "lock"))
        lock.release()
        with suppress(OSError):  # from one that is not empty on, all stay
            for above in absent:
                above.rmdir()


def _check_name(folder: Path) -> None:
    """Refuse a path that safetensors could write to and not read from."""
    try:
        str(folder.absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RunError(f"{folder} cannot be used: its path is not UTF-8. Choose another place with --out") from error


def _acquire(lock: FileLock, beside: Path) -> None:
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            beside.mkdir(parents=True, exist_ok=True)  # which fails if a folder above is removed in between
            lock.acquire()
            return
        except FileNotFoundError:  # another process that held it has just removed the folder, which was empty
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
    place = Path(os.path.realpath(folder))  # one lock, by whatever name or link it is called
    return place.with_name(f".{place.name}.{ending}")


def _holder(owner: Path) -> str:
    """Who has it, as it says itself; it may have taken it this very moment."""
    until = time.monotonic() + _OWNER_WRITES_WITHIN
    while time.monotonic() < until:
        try:
            said = read_bytes(owner, 100).decode("ascii", "replace").strip()
        except UnreadableError:
            said = ""
        if said:
            return f"process {said}"
        time.sleep(0.01)
    return "another process"
