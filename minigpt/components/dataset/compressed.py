"""The bytes of a file, unpacked where they are packed, and never more of them than fit."""

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
"""A packed file may grow to so many bytes, and beyond them by that factor: text takes a few per cent at least."""


def read_unpacked(file: Path, most: int) -> bytes:
    """The content of a file, decompressed if it is gzip, bzip2, xz or zstd by its first bytes.

    Args:
        file: An ordinary file.
        most: Bytes that there is room for.

    Raises:
        DataError: It cannot be read, or is damaged.
        TooLargeError: There are more bytes; no more than `most` were read.
    """
    try:
        with open(file, "rb", opener=_without_waiting) as packed:
            status = os.fstat(packed.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{file} is no ordinary file")
            packing = _packing(packed.read(10), file)
            packed.seek(0)
            if packing is None:
                return _read(packed, most, f"{file} has more than {size(most)}, and there is no memory for more")
            factor = max(_ANY_GROWTH, _MOST_GROWTH * status.st_size)
            what = f"{file} is {size(status.st_size)} packed and more than {size(min(most, factor))} unpacked"
            reason = "there is no memory for more" if most < factor else "text does not grow like that"
            try:
                with packing.open(packed) as content:
                    return _read(content, min(most, factor), f"{what}: {reason}")
            except packing.errors as error:
                raise DataError(f"{file} is damaged: {error}") from error
    except OSError as error:  # some errors of packing are of this type, without a strerror
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
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe that took the file's place would wait for a writer


@dataclass(frozen=True)
class _Packing:
    """A way of packing.

    Attributes:
        open: Gives what is unpacked, for a packed file.
        errors: What damage raises, beside OSError.
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
        raise DataError(f"{file} is packed with zstd: pip install 'minigpt-lab[corpora]', or unpack it first") from error
    return _Packing(lambda packed: zstd.ZstdFile(packed), (EOFError, zstd.ZstdError))
