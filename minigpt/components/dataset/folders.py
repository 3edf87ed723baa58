"""Which files a path stands for: a file itself, or those below a folder, each real folder once and in sorted order."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.errors import DataError, count

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings that say how a file is compressed; the ending before them says what it is."""

Identity = tuple[int, int]
"""Device and inode: what a file or folder is, whatever names lead to it."""


@dataclass(frozen=True)
class Found:
    """A file to read.

    Attributes:
        path: Where it was found.
        identity: What it is.
        size: Its bytes, as the system has them.
        named: Whether it was named itself, and not found in a folder.
    """

    path: Path
    identity: Identity
    size: int
    named: bool


@dataclass
class Search:
    """Looks for the files of one parameter.

    Attributes:
        parameter: Such as `data.paths`, for messages.
        suffixes: Endings of the files to take from folders, in small letters.
        skipped: What was not taken, by kind, and how often.
    """

    parameter: str
    suffixes: tuple[str, ...]
    skipped: Counter[str] = field(default_factory=Counter)

    def files(self, path: str) -> list[Found]:
        """The files that a path stands for.

        Raises:
            DataError: There are none, or a folder cannot be read.
        """
        place = Path(path)
        status = _status(place)
        if status is None:
            raise DataError(f"{self.parameter}: there is no file or folder {place}")
        if stat.S_ISREG(status.st_mode):
            return [_found(place, status, named=True)]
        if not stat.S_ISDIR(status.st_mode):
            raise DataError(f"{self.parameter}: {place} is no ordinary file")
        files = [_found(file, status, named=False) for file, status in self._walk(place)]
        if not files:
            endings = ", ".join(self.suffixes)
            raise DataError(f"{self.parameter}: no file in {place} ends in {endings}{self._what_else()}; set data.suffixes")
        return files

    def notes(self) -> Iterator[str]:
        """What was skipped, in a line."""
        if self.skipped:
            yield f"{self.parameter}: {self._counted()}"

    def _what_else(self) -> str:
        return f" ({self._counted()})" if self.skipped else ""

    def _counted(self) -> str:
        kinds = sorted(self.skipped.items(), key=lambda kind: (-kind[1], kind[0]))
        return f"{count(self.skipped.total(), 'file')} skipped: " + ", ".join(f"{number:,} {kind}" for kind, number in kinds)

    def _walk(self, folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        """Files with the right endings; no hidden ones, and none of run folders: a run must not read its own samples."""
        real = Path(os.path.realpath(folder))
        visited = {_identity(os.stat(above)) for above in real.parents}  # a link upwards would read what nobody named
        pending = [folder]
        while pending:
            place = pending.pop()
            status = _status(place)
            if status is None:
                self.skipped["broken link"] += 1
            elif stat.S_ISDIR(status.st_mode):
                if _identity(status) in visited:
                    self.skipped["link to a folder above it or read already"] += 1
                    continue
                visited.add(_identity(status))
                pending += reversed(self._entries(place))
            elif not stat.S_ISREG(status.st_mode):
                self.skipped["no ordinary file"] += 1
            elif (kind := ending(place)) in self.suffixes:
                yield place, status
            else:
                self.skipped[kind or "without an ending"] += 1

    def _entries(self, folder: Path) -> list[Path]:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"{self.parameter}: {folder} cannot be read: {error.strerror}") from error
        names = {entry.name for entry in entries}
        if {"experiment.json", "provenance.json"} <= names:
            self.skipped["run folder"] += 1
            return []
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        if len(shown) < len(entries):
            self.skipped["hidden"] += len(entries) - len(shown)
        return shown


def ending(file: Path) -> str:
    """What a file is by its name, in small letters: `.txt` for `A.TXT` and for `a.txt.gz`."""
    name = file.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    return Path(name.removesuffix(packed)).suffix or packed


def _found(path: Path, status: os.stat_result, named: bool) -> Found:
    return Found(path, _identity(status), status.st_size, named)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _status(place: Path) -> os.stat_result | None:
    """Of what a path leads to; None where it leads nowhere."""
    try:
        return os.stat(place)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
