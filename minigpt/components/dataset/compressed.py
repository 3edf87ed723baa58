"""The bytes of a file, decompressed if necessary, and at most as many as memory allows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from pathlib import Path

from minigpt.errors import DataError, TooLargeError
from minigpt.numbers import size

_STEP = 1 << 20
_ANY_GROWTH, _MOST_GROWTH = 1 << 26, 500
"""A compressed file may grow to this many bytes, and beyond them by this factor: text compresses to a few per cent."""


def read_unpacked(file: Path, most: int) -> bytes:
    """The content of a file, decompressed if its first bytes are those of gzip, bzip2, xz or zstd.

    Args:
        file: An ordinary file.
        most: The largest number of bytes.

    Raises:
        DataError: The file cannot be read, or is damaged.
        TooLargeError: The content is larger than `most`; no more than `most` bytes were read.
    """
    try:
        with open(file, "rb", opener=_without_waiting) as packed:
            status = os.fstat(packed.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{file} is not an ordinary file")
            start: bytes | None = packed.read(10)
            if start is None:
                raise DataError(f"{file} has no content yet, and is not waited for")
            packing = _packing(start, file)
            packed.seek(0)
            if packing is None:
                return _read(packed, most, f"{file} has more than {size(most)}, and there is no memory for more")
            factor = max(_ANY_GROWTH, _MOST_GROWTH * status.st_size)
            what = f"{file} is {size(status.st_size)} compressed and more than {size(min(most, factor))} decompressed"
            reason = "there is no memory for more" if most < factor else "text does not grow like that"
            try:
                with packing.open(packed) as content:
                    return _read(content, min(most, factor), f"{what}: {reason}")
            except packing.errors as error:
                raise DataError(f"{file} is damaged: {error}") from error
    except OSError as error:  # some decompression errors are of this type, without a strerror
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def _read(content: BufferedIOBase, most: int, refusal: str) -> bytes:
    pieces, total = [], 0
    while piece := content.read(_STEP):
        total += len(piece)
        if total > most:
            raise TooLargeError(refusal)
        pieces.append(piece)
    return b"".join(pieces)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe in the file's place would wait for a writer


@dataclass(frozen=True)
class _Packing:
    """A compression format.

    Attributes:
        open: Opens a compressed file for reading its decompressed content.
        errors: Exceptions that damage raises, in addition to OSError.
    """

    open: Callable[[BufferedReader], BufferedIOBase]
    errors: tuple[type[Exception], ...]


def _packing(start: bytes, file: Path) -> _Packing | None:
    if start.startswith(b"\x1f\x8b\x08"):
        return _Packing(lambda packed: gzip.GzipFile(fileobj=packed), (EOFError, zlib.error))
    if start[:3] == b"BZh" and start[4:10] == b"1AY&SY":
        return _Packing(lambda packed: bz2.BZ2File(packed), (EOFError,))
    if start.startswith(b"\xfd7zXZ\0"):
        return _Packing(lambda packed: lzma.LZMAFile(packed), (EOFError, lzma.LZMAError))
    return _zstd(file) if start.startswith(b"\x28\xb5\x2f\xfd") else None


def _zstd(file: Path) -> _Packing:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise DataError(f"{file} is a zstd file: pip install 'minigpt-lab[corpora]', or decompress it first") from error
    return _Packing(lambda packed: zstd.ZstdFile(packed), (EOFError, zstd.ZstdError))
