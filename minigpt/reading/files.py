"""Read experiment files from disk: strict JSON, and the files that an experiment extends."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt.errors import ExperimentError, Problem, nearest
from minigpt.reading.moved import migrated, refuse_moved
from minigpt.registry.paths import LocatedText, NamedByRun, run_folder_of
from minigpt.registry.problems import quote
from minigpt.system.files import refuse_surrogates

_MAX_BYTES, _MAX_CHAIN = 1 << 20, 50


def read_chain(path: Path, seen: tuple[Path, ...], of_run: bool = False) -> list[dict[str, Any]]:
    """Read a file and the files that it extends; the furthest ancestor comes first.

    Args:
        path: The file.
        seen: The files that led to it.
        of_run: Whether the file, or one that led to it, is in a run folder.
    """
    here = Path(os.path.realpath(path))  # instead of Path.resolve, which raises on a loop of links
    if here in seen:
        cycle = " -> ".join(file.name for file in (*seen[seen.index(here) :], here))
        raise ExperimentError([Problem(("extends",), f"the files extend each other in a cycle: {cycle}")], str(path))
    if len(seen) >= _MAX_CHAIN:
        raise ExperimentError([Problem(("extends",), f"a chain of more than {_MAX_CHAIN} files")], str(path))
    document = _read_file(path)
    return with_parents(document, path, (*seen, here), of_run or run_folder_of(path) is not None)


def with_parents(document: dict[str, Any], path: Path, seen: tuple[Path, ...], of_run: bool) -> list[dict[str, Any]]:
    """The document of the file `path`, preceded by the documents that it extends.

    Args:
        document: The file's JSON object.
        path: The file.
        seen: The files that led to it.
        of_run: Whether the file, or one that led to it, is in a run folder.

    Raises:
        ExperimentError: A person wrote a key that has moved, or what it extends cannot be read.
    """
    if of_run:
        document = migrated(document)
    else:
        refuse_moved(document, str(path))
    parent = document.pop("extends", None)
    document.pop("$schema", None)
    document.setdefault("description", "")  # a parent's description would be wrong for its child
    if "name" not in document:
        document["name"] = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100] or "experiment"
    plugin_files = document.get("plugins", [])
    if isinstance(plugin_files, list):
        kind = NamedByRun if of_run else str
        document["plugins"] = [kind(_beside(path, file)) if isinstance(file, str) else file for file in plugin_files]
    if parent is None:
        return [document]
    if not isinstance(parent, str):
        raise ExperimentError([Problem(("extends",), f"found {quote(parent)}; allowed: the path of a JSON file")], str(path))
    parent_path = Path(_beside(path, parent))
    if not os.path.exists(parent_path):  # instead of Path.exists, which raises on a name that is too long
        raise ExperimentError([Problem(("extends",), f"{quote(parent)}: {_no_such_file(parent_path)}")], str(path))
    return [*read_chain(parent_path, seen, of_run), document]


def parent_of(path: Path) -> Path | None:
    """The file that an experiment file extends; None if it extends none.

    Raises:
        ExperimentError: The file cannot be read.
    """
    parent = _read_file(path).get("extends")
    return Path(_beside(path, parent)) if isinstance(parent, str) else None


def plugins_in(documents: Sequence[dict[str, Any]]) -> Any:
    """The plugins of all documents. A child may use components of its parent's plugins."""
    named: Any = []
    for document in documents:
        files = document["plugins"]
        named = [*named, *files] if isinstance(named, list) and isinstance(files, list) else files
    return named


def _beside(path: Path, other: str) -> str:
    """A path that is relative to the file `path`."""
    return str(path.parent / os.path.expanduser(other))


def _read_file(path: Path) -> dict[str, Any]:
    source = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # a pipe or a device may never end
            raise ExperimentError([Problem((), "not a regular file")], source)
        if status.st_size > _MAX_BYTES:
            raise ExperimentError([Problem((), f"larger than {_MAX_BYTES:,} bytes: not an experiment")], source)
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExperimentError([Problem((), f"not UTF-8 (byte {error.start}); save the file as UTF-8")], source) from error
    except OSError as error:
        raise ExperimentError([Problem((), _missing(path, error))], source) from error
    except ValueError as error:  # a NUL in the path
        raise ExperimentError([Problem((), f"is not a valid path: {error}")], source) from error
    try:
        document = strict_json(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ExperimentError([Problem((), f"not JSON: {error.msg} ({place})")], source) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ExperimentError([Problem((), f"not JSON as experiments use it: {reason}")], source) from error
    if not isinstance(document, dict):
        raise ExperimentError([Problem((), f"found {quote(document)}; allowed: an object in {{ }}")], source)
    try:
        return dict(_locate(document, path.absolute().parent))
    except RecursionError as error:
        raise ExperimentError([Problem((), "nested too deeply")], source) from error


def _missing(path: Path, error: OSError) -> str:
    return _no_such_file(path) if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"


def _no_such_file(path: Path) -> str:
    folder = path.parent
    files = [file.name for file in folder.glob("*.json")] if os.path.isdir(folder) else []
    return f"there is no such file{nearest(path.name, files)}"


def strict_json(text: str) -> Any:
    """Parse strict JSON: no duplicate keys, NaN, numbers that overflow, or lone surrogates."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f'the key "{key}" occurs twice in one object')
            seen.add(key)
        return dict(pairs)

    def no_constants(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError(f"{digits} is too large a number")
        return number

    value = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants, parse_float=finite)
    refuse_surrogates(value)
    return value


def _locate(value: Any, folder: Path) -> Any:
    """Replace each text by a LocatedText.

    Relative paths among the parameters start at the file's folder.
    """
    if isinstance(value, str):
        return LocatedText.of(value, folder)
    if isinstance(value, list):
        return [_locate(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: _locate(item, folder) for key, item in value.items()}
    return value
