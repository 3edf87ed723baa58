"""Paths in an experiment start from the file that says them, and a plugin in a run folder is named by nobody here."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import Annotated, Any


class LocatedText(str):
    """Text read from a file: remembers the folder that relative paths in it start from."""

    __slots__ = ("folder",)
    folder: Path

    @classmethod
    def of(cls, text: str, folder: Path) -> LocatedText:
        """`text`, which stood in a file of `folder`."""
        located = cls(text)
        located.folder = folder
        return located


class _PathMark:
    """Marks a parameter as a path of the user's."""


UserPath = Annotated[str, _PathMark()]
"""Annotation for a path parameter: relative to the experiment file that says it, else to the working folder."""


def absolute(value: Any) -> Any:
    """A path, or a list or an object of paths, made absolute."""
    if isinstance(value, list):
        return [absolute(item) for item in value]
    if isinstance(value, dict):
        return {key: absolute(item) for key, item in value.items()}
    if isinstance(value, str):
        return os.path.normpath(getattr(value, "folder", Path.cwd()) / os.path.expanduser(value))
    return value


def mentions_path(annotation: Any) -> bool:
    """Whether an annotation has `UserPath` in it anywhere."""
    metadata = getattr(annotation, "__metadata__", ())
    return any(isinstance(item, _PathMark) for item in metadata) or any(map(mentions_path, typing.get_args(annotation)))


_RECORDS = ("provenance.json", "metrics.jsonl")


class NamedByRun(str):
    """A plugin file that a run folder names, itself or through what it extends: no person here has named it."""

    __slots__ = ()


def run_folder_of(path: Path) -> Path | None:
    """The run's, or comparison's, folder that a file lies in; None outside of one."""
    for folder in dict.fromkeys((*path.absolute().parents, *Path(os.path.realpath(path)).parents)):
        records = [name for name in _RECORDS if os.path.lexists(folder / name)]
        if (records and os.path.lexists(folder / "experiment.json")) or os.path.lexists(folder / "comparison.json"):
            return folder
    return None
