"""Files written so that a crash leaves old or new content, and read as if they came from a stranger.

All writing uses the few calls of `os` in this module, so that a test can make any of them fail.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt.errors import UnreadableError, WriteError
from minigpt.printable import printable

MAX_JSON_BYTES = 1 << 24
"""Size limit of a JSON file, unless a caller expects more; in memory it may take thirty times as much."""

# Do not follow links, and do not wait for a pipe.
_CAREFULLY = os.O_CREAT | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


# ------------------------------------------------------------------------------------------------------------- writing


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet, and force its content to the disk.

    Raises:
        OSError: A step failed; the file left behind is unusable.
    """
    handle = _open(path, os.O_WRONLY | os.O_EXCL)
    try:
        write_all(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, content: bytes) -> None:
    """Write all bytes, even if the system takes only a few at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def open_growing(path: Path) -> int:
    """A handle that reads a file and appends to it; creates a missing file, and does not follow a link."""
    return _open(path, os.O_RDWR | os.O_APPEND)


def open_fresh(path: Path) -> int:
    """A handle that writes to a new file; anything at its path, such as a link, is removed first."""
    path.unlink(missing_ok=True)
    return _open(path, os.O_WRONLY | os.O_EXCL)


def is_own(path: Path) -> bool:
    """Whether a path is an ordinary file with a single name, so that writing to it changes nothing else."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _open(path: Path, how: int) -> int:
    handle = os.open(path, _CAREFULLY | how, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not an ordinary file")
    return handle


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk (only POSIX systems can)."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content as a whole.

    Raises:
        WriteError: It failed; the old content remains.
    """
    temporary = path.with_name(f".{path.name}.new")
    discard(temporary)  # left by a process that died, or a hard link to another file
    try:
        write_new(temporary, content)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        discard(temporary)
        raise WriteError(f"{path} cannot be written: {error.strerror}") from error


def check_output(path: Path) -> None:
    """Refuse a file that a person named for output, before the work whose results it is for.

    Raises:
        WriteError: Its folder does not exist, or there is something at its path that is not written to.
    """
    if not path.absolute().parent.is_dir():
        raise WriteError(f"{path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file() and not _is_stream(path):
        raise WriteError(f"{path} is {'a folder' if path.is_dir() else 'not an ordinary file'}: name a file")


def write_output(path: Path, content: bytes) -> None:
    """Write a file that a person named. A link is followed; a pipe or a character device stays and is written to.

    Raises:
        WriteError: It failed; the old content of a file remains.
    """
    check_output(path)
    if not _is_stream(path):
        write_bytes(Path(os.path.realpath(path)), content)
        return
    try:
        handle = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe without a reader is an error
        try:
            os.set_blocking(handle, True)
            write_all(handle, content)
        finally:
            os.close(handle)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}") from error


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a character device, or stands for an open file, as /dev/stdout does."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    is_open_file = stat.S_ISREG(mode) and str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or is_open_file


def discard(path: Path) -> None:
    """Remove an unusable file; if this fails too, the next call tries again."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def write_text(path: Path, text: str) -> None:
    """Replace a file's content as a whole. Raises as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def json_bytes(value: Any) -> bytes:
    """A JSON document as the bytes of a file; control characters and half characters in texts are escaped."""
    return printable(json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a JSON document. Raises as `write_bytes` does."""
    write_bytes(path, json_bytes(value))


# ------------------------------------------------------------------------------------------------------------- reading


def entries_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, however deep it is, except folders; links are not followed.

    Folders that disappear meanwhile, or cannot be read, are left out.
    """
    pending = [os.fspath(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            else:
                yield entry


def ordinary_size(path: Path) -> int:
    """The number of bytes of an ordinary file.

    Raises:
        UnreadableError: It is a folder, or it is a pipe or a device (which might never end).
        OSError: The file is missing.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError(f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not an ordinary file'}")
    return status.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """The content of an ordinary file of at most `most` bytes.

    Raises:
        UnreadableError: The file is missing or larger, or as for `ordinary_size`.
    """
    try:
        size = ordinary_size(path)
        if size > most:
            raise UnreadableError(f"{path} has {size:,} bytes; at most {most:,} are read")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnreadableError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """A JSON document of any kind.

    Raises:
        UnreadableError: As for `read_bytes`; or the content is not JSON, or nested too deeply.
    """
    return _parsed(read_bytes(path, most), path)


def _parsed(content: bytes, path: Path) -> Any:
    try:
        value = json.loads(content.decode("utf-8"))
        if _SURROGATE.search(content):
            refuse_surrogates(value)
        return value
    except RecursionError as error:
        raise UnreadableError(f"{path} is damaged: nested too deeply") from error
    except ValueError as error:
        raise UnreadableError(f"{path} is damaged: {error}") from error


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def refuse_surrogates(value: Any) -> None:
    """Refuse half characters (lone surrogates), which JSON can escape but no file or terminal can store.

    Raises:
        ValueError: There is one.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"it contains half a character (\\u{ord(error.object[error.start]):04x})") from error


def read_object(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object. Raises as `read_json` does, and for other kinds of documents."""
    return parse_object(read_bytes(path, most), path)


def parse_object(content: bytes, path: Path) -> dict[str, Any]:
    """Parse the content of a file as a JSON object, or raise UnreadableError; `path` is for messages."""
    value = _parsed(content, path)
    if not isinstance(value, dict):
        raise UnreadableError(f"{path} is damaged: found {type(value).__name__}; allowed: an object")
    return value
