"""Finds the files of a path: the file, or the files below a folder, in sorted order."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.errors import DataError, count

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files; the ending before them is the type of the content."""

Identity = tuple[int, int]
"""Device and inode, which identify a file or folder under all of its names."""


@dataclass(frozen=True)
class Found:
    """A file to read.

    Attributes:
        path: Its path.
        identity: Its device and inode.
        size: Its size in bytes.
        named: Whether the experiment names the file itself, not only its folder.
    """

    path: Path
    identity: Identity
    size: int
    named: bool


@dataclass
class Search:
    """A search for the files of one parameter.

    Attributes:
        parameter: Name for messages, such as `data.paths`.
        suffixes: Endings of the files to take from folders, in lower case.
        skipped: Number of files skipped, by kind.
    """

    parameter: str
    suffixes: tuple[str, ...]
    skipped: Counter[str] = field(default_factory=Counter)

    def files(self, path: str) -> list[Found]:
        """The files that a path stands for.

        Raises:
            DataError: There are no files, or a folder cannot be read.
        """
        place = Path(path)
        status = _status(place)
        if status is None:
            raise DataError(f"{self.parameter}: there is no file or folder {place}")
        if stat.S_ISREG(status.st_mode):
            return [_found(place, status, named=True)]
        if not stat.S_ISDIR(status.st_mode):
            raise DataError(f"{self.parameter}: {place} is not an ordinary file")
        files = [_found(file, status, named=False) for file, status in self._walk(place)]
        if not files:
            endings = ", ".join(self.suffixes)
            raise DataError(f"{self.parameter}: no file in {place} ends in {endings}{self._what_else()}; set data.suffixes")
        return files

    def notes(self) -> Iterator[str]:
        """A line about skipped files, if any."""
        if self.skipped:
            yield f"{self.parameter}: {self._counted()}"

    def _what_else(self) -> str:
        return f" ({self._counted()})" if self.skipped else ""

    def _counted(self) -> str:
        kinds = sorted(self.skipped.items(), key=lambda kind: (-kind[1], kind[0]))
        return f"{count(self.skipped.total(), 'file')} skipped: " + ", ".join(f"{number:,} {kind}" for kind, number in kinds)

    def _walk(self, folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        """Files with the right endings, each real folder once, except hidden files and run folders.

        A run must not read its own samples.
        """
        real = Path(os.path.realpath(folder))
        visited = {_identity(os.stat(above)) for above in real.parents}  # a link upwards would add files nobody asked for
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
                self.skipped["not an ordinary file"] += 1
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
    """The ending that shows a file's type, in lower case: `.txt` for `A.TXT` and for `a.txt.gz`."""
    name = file.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    return Path(name.removesuffix(packed)).suffix or packed


def _found(path: Path, status: os.stat_result, named: bool) -> Found:
    return Found(path, _identity(status), status.st_size, named)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _status(place: Path) -> os.stat_result | None:
    """Status of the target of a path; None if there is none."""
    try:
        return os.stat(place)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
