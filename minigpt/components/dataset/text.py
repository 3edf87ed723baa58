"""Text files of the user's own."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from minigpt.contracts import Dataset, Splits
from minigpt.errors import DataError
from minigpt.paths import UserPath
from minigpt.registry import register


@register("dataset", "text")
class TextFiles(Dataset):
    """Your own files: each path a file, or a folder that is searched for files of the given endings, in sorted order.

    Args:
        paths: Files and folders, relative to the experiment file that names them.
        suffixes: Endings of the files to take from folders.
        val_path: A file or folder for validation; null takes the last part of the text.
        val_fraction: That last part, where val_path is null.
        errors: What to do with bytes that are not UTF-8: strict refuses, replace puts U+FFFD.
    """

    def __init__(
        self,
        *,
        paths: Annotated[list[UserPath], Field(min_length=1)],
        suffixes: list[str] = [".txt", ".md"],  # noqa: B006 - read only
        val_path: UserPath | None = None,
        val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        errors: Literal["strict", "replace"] = "strict",
    ):
        self.paths, self.val_path = paths, val_path
        self.suffixes = tuple("." + suffix.removeprefix(".") for suffix in suffixes)
        self.val_fraction, self.errors = val_fraction, errors

    def load(self) -> Splits:
        text = "\n".join(self._read(file) for path in self.paths for file in self._files(path))
        if self.val_path is None:
            return Splits.of_text(text, self.val_fraction)
        return Splits(text, "\n".join(map(self._read, self._files(self.val_path))))

    def _files(self, path: str) -> list[Path]:
        place = Path(path)
        if place.is_file():
            return [place]
        if not place.is_dir():
            raise DataError(f"data.paths: there is no file or folder {place}")
        files = [file for file in _walk(place) if file.suffix in self.suffixes]
        if not files:
            raise DataError(f"data.paths: no file in {place} ends in {', '.join(self.suffixes)}; set data.suffixes")
        return files

    def _read(self, file: Path) -> str:
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from error
        start = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
        try:
            return raw[start:].decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            place = start + error.start
            raise DataError(
                f"{file}: the byte 0x{raw[place]:02x} at offset {place} is not UTF-8; "
                'set data.errors to "replace", or convert the file'
            ) from error


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted; not hidden ones, and none of run folders: a run must not read its own samples."""
    if (folder / "experiment.json").is_file() and (folder / "provenance.json").is_file():
        return
    for place in sorted(folder.iterdir()):
        if place.name.startswith("."):
            continue
        if place.is_dir():
            yield from _walk(place)
        elif place.is_file():
            yield place
