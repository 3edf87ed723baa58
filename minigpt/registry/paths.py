"""Paths in an experiment: relative to the file that has them; and which files belong to a run folder."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any


class LocatedText(str):
    """Text read from a file: remembers the folder that relative paths in it start from."""

    __slots__ = ("folder",)
    folder: Path

    @classmethod
    def of(cls, text: str, folder: Path) -> LocatedText:
        """`text`, read from a file in `folder`."""
        located = cls(text)
        located.folder = folder
        return located


class PathMark:
    """Marks a parameter as one of the user's paths."""


UserPath = Annotated[str, PathMark()]
"""Annotation for a path parameter: relative to the experiment file that has it, else to the working folder."""


def absolute(value: Any) -> Any:
    """A path, or a collection of paths, made absolute."""
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(absolute, value))
    if isinstance(value, dict):
        return {key: absolute(item) for key, item in value.items()}
    if isinstance(value, str):
        return os.path.normpath(getattr(value, "folder", Path.cwd()) / os.path.expanduser(value))
    return value


def mentions_path(annotation: Any) -> bool:
    """Whether an annotation has `UserPath` in it anywhere."""
    metadata = getattr(annotation, "__metadata__", ())
    return any(isinstance(item, PathMark) for item in metadata) or any(map(mentions_path, typing.get_args(annotation)))


_RECORD = "experiment.json"
_BESIDE_IT = ("provenance.json", "metrics.jsonl", "manifest.json", "tokenizer.json", "samples.txt", "checkpoints", "plugins")
_OF_COMPARISONS = ("comparison.json", "inputs/experiments")


class NamedByRun(str):
    """A plugin file that only a run folder names, itself or through a file that it extends."""

    __slots__ = ()


def run_folder_of(path: Path) -> Path | None:
    """The run's, or comparison's, folder that a file lies in; None outside of one.

    A file named `experiment.json`, itself or where a link to it leads, is always a run's record, whatever else is or is
    not there, because the sender of a folder chooses its contents. Another file is of a run where a folder above it has an
    `experiment.json` and anything else that a run leaves; of a comparison where one has `comparison.json` or
    `inputs/experiments`.
    """
    places = (path.absolute(), Path(os.path.realpath(path)))
    for place in places:
        if place.name.lower() == _RECORD:  # some file systems know no other case
            return place.parent
    for folder in dict.fromkeys(folder for place in places for folder in place.parents):
        begun = os.path.lexists(folder / _RECORD) and _has_any(folder, _BESIDE_IT)
        if begun or _has_any(folder, _OF_COMPARISONS):
            return folder
    return None


def _has_any(folder: Path, names: Iterable[str]) -> bool:
    return any(os.path.lexists(folder / name) for name in names)
