"""Paths in an experiment are relative to its file; files in a run folder are recognized."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any


class LocatedText(str):
    """Text read from a file, with the folder that its relative paths start from."""

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


class RunMark(PathMark):
    """Marks a parameter as the folder of a finished run."""


UserPath = Annotated[str, PathMark()]
"""Annotation of a path parameter. A relative path starts at the experiment file's folder, or at the working folder."""

RunPath = Annotated[str, RunMark()]
"""Annotation of a parameter that names a finished run, which is opened and checked before training begins."""


def absolute(value: Any) -> Any:
    """A path, or a collection of paths, made absolute."""
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(absolute, value))
    if isinstance(value, dict):
        return {key: absolute(item) for key, item in value.items()}
    if isinstance(value, str):
        return os.path.normpath(getattr(value, "folder", Path.cwd()) / os.path.expanduser(value))
    return value


def mentions_path(annotation: Any, mark: type[PathMark] = PathMark) -> bool:
    """Whether an annotation has `UserPath` or `RunPath` in it anywhere; only `RunPath` if the mark is `RunMark`."""
    metadata = getattr(annotation, "__metadata__", ())
    return any(isinstance(item, mark) for item in metadata) or any(
        mentions_path(inner, mark) for inner in typing.get_args(annotation)
    )


_RECORD = "experiment.json"
_BESIDE_IT = ("provenance.json", "metrics.jsonl", "manifest.json", "tokenizer.json", "samples.txt", "checkpoints", "plugins")
_OF_COMPARISONS = ("comparison.json", "inputs/experiments")


class NamedByRun(str):
    """Path of a plugin that only a run folder names, directly or through a file that it extends."""

    __slots__ = ()


def run_folder_of(path: Path) -> Path | None:
    """The folder of the run or comparison that a file belongs to; None if it belongs to none.

    A file named `experiment.json`, or a link to such a file, is always a run's record, even if no other file of a run is
    beside it, because the sender of a folder chooses its contents. Another file belongs to a run if a folder above it has an
    `experiment.json` and any other file of a run. It belongs to a comparison if a folder above it has `comparison.json` or
    `inputs/experiments`.
    """
    places = (path.absolute(), Path(os.path.realpath(path)))
    for place in places:
        if place.name.lower() == _RECORD:  # some file systems ignore case
            return place.parent
    for folder in dict.fromkeys(folder for place in places for folder in place.parents):
        begun = os.path.lexists(folder / _RECORD) and _has_any(folder, _BESIDE_IT)
        if begun or _has_any(folder, _OF_COMPARISONS):
            return folder
    return None


def _has_any(folder: Path, names: Iterable[str]) -> bool:
    return any(os.path.lexists(folder / name) for name in names)
