"""Fingerprints of files, folders and runs that a component reads, because its numbers depend on them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from minigpt.errors import RunError, UnreadableError
from minigpt.registry import REGISTRY, Spec
from minigpt.run import checkpoint
from minigpt.system.files import entries_below, read_bytes

_MOST_BYTES = 1 << 40


def contents_of(spec: Spec[object]) -> list[str]:
    """SHA-256 of the content of each path among a component's parameters, in a fixed order.

    A dataset and a tokenizer count by what they return, so nothing is read for them.

    Raises:
        RunError: A path cannot be read.
    """
    if spec.family in ("dataset", "tokenizer") or not REGISTRY.has(spec.family, spec.name):
        return []
    runs_opened_by(spec)  # refuses a path that is no run
    return [_fingerprint(path) for path in _paths(spec, REGISTRY.entry(spec.family, spec.name).path_params)]


def runs_opened_by(spec: Spec[object]) -> list[Path]:
    """The runs that a component's parameters name.

    Raises:
        RunError: There is no run at such a path.
    """
    if not REGISTRY.has(spec.family, spec.name):
        return []
    runs = _paths(spec, REGISTRY.entry(spec.family, spec.name).run_params)
    for path in runs:
        if not _is_run(path):
            reason = "it has no experiment.json" if path.exists() else "the folder does not exist"
            raise RunError(f"{spec.where}: {path} is not a run folder: {reason}")
    return runs


def _paths(spec: Spec[object], names: Iterable[str]) -> list[Path]:
    return [Path(text) for name in sorted(names) for text in _texts(spec.params[name])]


def _is_run(path: Path) -> bool:
    return (path / "experiment.json").is_file()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in sorted(value, key=str) if isinstance(value, set | frozenset) else value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _fingerprint(path: Path) -> str:
    """SHA-256 of a file; of a run's settings, plugins and best weights; of all files of another folder, with their names."""
    if _is_run(path):
        weights, plugins = checkpoint.best_folder(path / "checkpoints"), path / "plugins"
        copies = sorted(Path(entry.path) for entry in entries_below(plugins)) if plugins.is_dir() else []
        files = [path / "experiment.json", *copies, *([weights / "manifest.json"] if weights else [])]
    else:
        files = sorted(Path(entry.path) for entry in entries_below(path)) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        try:
            content = read_bytes(file, _MOST_BYTES)
        except UnreadableError as error:
            raise RunError(str(error)) from error
        digest.update(
            f"{os.path.relpath(file, path)} {hashlib.sha256(content).hexdigest()}\n".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()
