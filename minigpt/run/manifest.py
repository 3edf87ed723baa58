"""The manifest of a run folder: size and SHA-256 of the files that describe the run.

The files are written when the run begins, and again with each segment. The manifest is written before experiment.json,
whose presence makes a folder a run. Each file is checked when it is read. Other files are checked in other ways: growing
files with the checkpoints (`growing.py`), checkpoints with their own manifests, plugins with the hashes in
provenance.json. A run that was begun by an earlier version has no manifest, and is read without it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minigpt.errors import RunError, UnreadableError, command_line
from minigpt.registry.problems import first_problem
from minigpt.system.files import MAX_JSON_BYTES, read_bytes, read_object, write_bytes, write_json

EDITABLE = "experiment.json"
"""The only file that a person may change; the change must then be accepted."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _File(_Strict):
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Manifest(_Strict):
    """The files by name. During a replacement, `next` has the new versions of the files."""

    format: Literal[1] = 1
    files: dict[str, _File]
    next: dict[str, _File] = {}


def _file(content: bytes) -> _File:
    return _File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_manifest(folder: Path, contents: dict[str, bytes]) -> None:
    """Write the manifest of these files. Raises WriteError if it cannot be written."""
    _write(folder, _Manifest(files={name: _file(content) for name, content in contents.items()}))


def checked_bytes(folder: Path, name: str, most: int = MAX_JSON_BYTES) -> bytes:
    """The content of one of the files, checked with the manifest.

    Raises:
        RunError: The file or the manifest is missing, unreadable, damaged or edited.
    """
    manifest = _read(folder)
    expected = [files[name] for files in (manifest.files, manifest.next) if name in files]
    try:
        content = read_bytes(folder / name, most)
    except UnreadableError as error:
        raise RunError(str(error)) from error
    if expected and _file(content) not in expected:
        problem = f"{folder / name} is damaged or was edited: it differs from the record in {_path(folder).name}"
        accept = command_line("resume", folder, "--accept-changes")
        step = f"Undo the edit, or accept it: {accept}" if name == EDITABLE else "Restore the file from a copy"
        raise RunError(f"{problem}. {step}")
    return content


def is_expected(folder: Path, name: str) -> bool:
    """Whether the manifest lists the file; without a manifest, whether the file exists."""
    return name in _read(folder).files if _path(folder).exists() else (folder / name).is_file()


def accept_edits(folder: Path) -> None:
    """Record the present experiment.json in the manifest, because a person has changed it and accepts the change.

    Raises:
        RunError: The manifest is damaged, or experiment.json cannot be read.
        WriteError: The disk is full or failing.
    """
    manifest = _read(folder)
    if EDITABLE not in manifest.files:
        return
    try:
        now = _file(read_bytes(folder / EDITABLE, MAX_JSON_BYTES))
    except UnreadableError as error:
        raise RunError(str(error)) from error
    if now != manifest.files[EDITABLE]:
        _write(folder, _Manifest(files={**manifest.files, EDITABLE: now}))


def replace_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Replace some of the files, in the given order, and update the manifest.

    During the replacement the manifest accepts the old and the new version of each file, in case the process is killed. A
    run without a manifest gets none, because the manifest would lack its other files.

    Raises:
        RunError: The manifest is damaged.
        WriteError: The disk is full or failing.
    """
    before, after = _read(folder).files, {name: _file(content) for name, content in contents.items()}
    has_manifest = _path(folder).exists()
    if has_manifest:
        _write(folder, _Manifest(files=before, next=after))
    for name, content in contents.items():
        write_bytes(folder / name, content)
    if has_manifest:
        _write(folder, _Manifest(files={**before, **after}))


def _path(folder: Path) -> Path:
    return folder / "manifest.json"


def _write(folder: Path, manifest: _Manifest) -> None:
    write_json(_path(folder), manifest.model_dump(exclude=None if manifest.next else {"next"}))


def _read(folder: Path) -> _Manifest:
    if not _path(folder).exists():
        return _Manifest(files={})
    try:
        return _Manifest.model_validate(read_object(_path(folder)))
    except UnreadableError as error:
        raise RunError(str(error)) from error
    except ValidationError as error:
        raise RunError(f"{_path(folder)} is damaged: {first_problem(error)}") from error
