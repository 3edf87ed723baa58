"""Files of ours, written so that a crash leaves the old content or the new, and read as if a stranger had written them.

Everything that is written goes through the few calls of `os` here, so that a test can make any one of them fail.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from minigpt.errors import UnreadableError, WriteError
from minigpt.printable import printable

MAX_JSON_BYTES = 1 << 24
"""What a file of JSON may have, unless more is expected; read, it may take thirty times as much."""

# Links are not followed, and a pipe is not waited for.
_CAREFULLY = os.O_CREAT | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


# ------------------------------------------------------------------------------------------------------------- writing


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, and force its content to the disk.

    Raises:
        OSError: Any step of it failed; what is there then is good for nothing.
    """
    handle = _open(path, os.O_WRONLY | os.O_EXCL)
    try:
        write_all(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, content: bytes) -> None:
    """All of it, however little the system takes at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def open_growing(path: Path) -> int:
    """A handle that reads a file and writes to its end; it is made if it is not there, and a link is not followed."""
    return _open(path, os.O_RDWR | os.O_APPEND)


def open_fresh(path: Path) -> int:
    """A handle that writes to a file that nobody had before: whatever is in its place, such as a link, is removed."""
    path.unlink(missing_ok=True)
    return _open(path, os.O_WRONLY | os.O_EXCL)


def is_own(path: Path) -> bool:
    """Whether a path is an ordinary file that no other name leads to: to write to it changes nothing else."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _open(path: Path, how: int) -> int:
    handle = os.open(path, _CAREFULLY | how, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no ordinary file")
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
        WriteError: It could not be; the old content is there still.
    """
    temporary = path.with_name(f".{path.name}.new")
    discard(temporary)  # of a process that died; or a hard link to another file
    try:
        write_new(temporary, content)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        discard(temporary)
        raise WriteError(f"{path} cannot be written: {error.strerror}") from error


def discard(path: Path) -> None:
    """Remove what is good for nothing; where that fails too, it is left for the next time."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def write_text(path: Path, text: str) -> None:
    """Replace a file's content as a whole. Raises as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def json_bytes(value: Any) -> bytes:
    """A JSON document as a file has it; control characters and half characters in texts have JSON's own escapes."""
    return printable(json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a JSON document. Raises as `write_bytes` does."""
    write_bytes(path, json_bytes(value))


# ------------------------------------------------------------------------------------------------------------- reading


def read_bytes(path: Path, most: int) -> bytes:
    """The content of an ordinary file of at most so many bytes.

    Raises:
        UnreadableError: There is none, it is a pipe or a device (which might never end), or it is larger.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise UnreadableError(f"{path} is {what}")
        if status.st_size > most:
            raise UnreadableError(f"{path} has {status.st_size:,} bytes; at most {most:,} are read")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnreadableError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """A JSON document, of whatever kind.

    Raises:
        UnreadableError: As for `read_bytes`; or it is no JSON, or nested beyond reason.
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
    """Refuse halves of characters (lone surrogates), which JSON can escape and no file or terminal can hold.

    Raises:
        ValueError: There is one.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"it has half a character in it (\\u{ord(error.object[error.start]):04x})") from error


def read_object(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object. Raises as `read_json` does, and for another kind of document."""
    return parse_object(read_bytes(path, most), path)


def parse_object(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that is a file's content, `path` for messages. Raises UnreadableError for anything else."""
    value = _parsed(content, path)
    if not isinstance(value, dict):
        raise UnreadableError(f"{path} is damaged: found {type(value).__name__}; allowed: an object")
    return value
