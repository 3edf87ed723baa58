"""The user's own text files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from minigpt.components.dataset.compressed import read_unpacked
from minigpt.components.dataset.encodings import check_encoding, decode
from minigpt.components.dataset.folders import Found, Identity, Search
from minigpt.components.dataset.overlap import NEARLY_ALL, text_overlap
from minigpt.contracts import Dataset, Splits
from minigpt.errors import DataError
from minigpt.registry import register
from minigpt.registry.paths import UserPath
from minigpt.system.memory import available_memory, refuse_if_too_large

_MEMORY = 3
"""Bytes of memory for each byte of text while it is read: as bytes, as text, and joined with other texts."""


@register("dataset", "text")
class TextFiles(Dataset):
    """Your own text files: each path is a file, or a folder to search for files with given endings.

    Folders are searched in sorted order. A file is read once, even if it has several names or copies. Validation text is
    left out of training. Skipped files and left out text are reported. Files compressed with gzip, bzip2, xz or zstd are
    decompressed.

    Args:
        paths: Files and folders, relative to the experiment file that names them.
        suffixes: Endings of the files to take from folders. Upper case and a further .gz, .bz2, .xz or .zst also match.
        val_path: A file or folder for validation; null to use the last part of the text.
        val_fraction: Share of this last part, if val_path is null.
        encoding: Encoding of the files, such as utf-8, latin-1, utf-16 or gbk. With utf-8, a file with the byte order mark
            of UTF-16 or UTF-32 is read in that encoding.
        errors: How to treat bytes that are not in that encoding: strict refuses, replace puts U+FFFD. Both refuse a file of
            which more than 1 % is U+FFFD, NULs and control characters; any accepts it, and replaces.
    """

    def __init__(
        self,
        *,
        paths: Annotated[list[UserPath], Field(min_length=1)],
        suffixes: list[str] = [".txt", ".md"],  # noqa: B006 - read only
        val_path: UserPath | None = None,
        val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        encoding: Annotated[str, Field(examples=["latin-1"])] = "utf-8",
        errors: Literal["strict", "replace", "any"] = "strict",
    ):
        check_encoding(encoding)
        self.paths, self.val_path = paths, val_path
        self.suffixes = tuple("." + suffix.lower().removeprefix(".") for suffix in suffixes)
        self.val_fraction, self.encoding, self.errors = val_fraction, encoding, errors

    def load(self) -> Splits:
        search, val_search = Search("data.paths", self.suffixes), Search("data.val_path", self.suffixes)
        train_files = [file for path in self.paths for file in search.files(path)]
        val_files = val_search.files(self.val_path) if self.val_path is not None else []
        needed = _MEMORY * sum({file.identity: file.size for file in (*train_files, *val_files)}.values())
        refuse_if_too_large("reading the text of data.paths", needed)
        room = (available_memory() or 1 << 60) // _MEMORY
        val = _Texts(self, room)
        val.read(val_files)
        train = _Texts(self, val.room, kept_out=val)
        train.read(train_files)
        if not train.texts:
            raise DataError("data.paths: every file is validation text (data.val_path); add other files for training")
        notes = (*search.notes(), *val_search.notes(), *train.notes(), *val.notes())
        if self.val_path is None:
            return replace(Splits.of_documents(train.texts, "\n", self.val_fraction), notes=notes)
        splits = replace(Splits.of_documents(train.texts, "\n", val.texts), notes=notes)
        self._refuse_copies(splits)
        return splits

    def _refuse_copies(self, splits: Splits) -> None:
        """Refuse training text that contains the validation text."""
        assert isinstance(splits.train, str)
        assert isinstance(splits.val, str)
        shared = text_overlap(splits.train, splits.val).shared
        if shared >= NEARLY_ALL:
            raise DataError(
                f"data.val_path: {shared:.0%} of the validation text is in the training text too, inside other files; "
                "take it out of data.paths"
            )


@dataclass
class _Texts:
    """The texts of one split, each content once.

    Attributes:
        dataset: Its parameters say how files are read.
        room: Bytes that may still be read.
        kept_out: Texts of the other split, which are left out.
        texts: Contents in the order of reading.
    """

    dataset: TextFiles
    room: int
    kept_out: _Texts | None = None
    texts: list[str] = field(default_factory=list)
    _files: dict[Identity, Path] = field(default_factory=dict)
    _contents: dict[bytes, Path] = field(default_factory=dict)
    _repeated: list[str] = field(default_factory=list)
    _left_out: list[str] = field(default_factory=list)

    def read(self, files: Iterable[Found]) -> None:
        """Read files, except those that were read under another name or belong to the other split."""
        for file in files:
            if self.kept_out and self._is_kept_out(self.kept_out._files, file.identity, file):
                continue
            if self._is_known(self._files, file.identity, file):
                continue
            raw = read_unpacked(file.path, self.room)
            text = decode(raw, self.dataset.encoding, self.dataset.errors, file.path)
            lines = text.replace("\r\n", "\n").replace("\r", "\n")  # other line ends do not make another text
            content = hashlib.sha256(lines.encode("utf-8", "surrogatepass")).digest()
            if text and self.kept_out and self._is_kept_out(self.kept_out._contents, content, file):
                continue
            if self._is_known(self._contents, content, file):
                continue
            self.room -= len(raw)
            self._files[file.identity] = self._contents[content] = file.path
            self.texts.append(text)

    def _is_known(self, known: Mapping[_Key, Path], key: _Key, file: Found) -> bool:
        if key in known:
            self._repeated.append(f"{file.path} is {known[key]}")
        return key in known

    def _is_kept_out(self, others: Mapping[_Key, Path], key: _Key, file: Found) -> bool:
        if key in others and file.named:
            copy = "" if file.path == others[key] else f", a copy of {others[key]},"
            raise DataError(f"data.paths: {file.path}{copy} is validation text (data.val_path); take it out of one of them")
        if key in others:
            self._left_out.append(str(file.path))
        return key in others

    def notes(self) -> Iterator[str]:
        """Lines about files that were not read."""
        if self._left_out:
            yield f"left out of training because it is validation text: {_some([*dict.fromkeys(self._left_out)])}"
        if self._repeated:
            yield f"read once because the content is the same: {_some([*dict.fromkeys(self._repeated)])}"


_Key = TypeVar("_Key")


def _some(items: Sequence[str]) -> str:
    """The first three items, and the number of further items."""
    return ", ".join(items[:3]) + (f", and {len(items) - 3:,} more" if len(items) > 3 else "")
