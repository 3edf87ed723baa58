"""The manifest of a run folder: size and SHA-256 of the files that say what the run is.

They are written when it begins, and anew with each segment. It is written before experiment.json, whose presence makes a
folder a run. Each file is checked when it is read. Files that grow are vouched for by the checkpoints (`growing.py`),
checkpoints by manifests of their own, and plugins by the hashes in provenance.json. A run that an earlier version began has
none, and is read without it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minigpt.errors import RunError, UnreadableError, command_line
from minigpt.system.files import MAX_JSON_BYTES, read_bytes, read_object, write_bytes, write_json

EDITABLE = "experiment.json"
"""The file that a person may change, and then accept."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _File(_Strict):
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Manifest(_Strict):
    """Files by name; `next` has those that are being replaced, as they will be."""

    format: Literal[1] = 1
    files: dict[str, _File]
    next: dict[str, _File] = {}


def _file(content: bytes) -> _File:
    return _File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_manifest(folder: Path, contents: dict[str, bytes]) -> None:
    """Vouch for files by their names. Raises WriteError where it cannot be written."""
    _write(folder, _Manifest(files={name: _file(content) for name, content in contents.items()}))


def checked_bytes(folder: Path, name: str, most: int = MAX_JSON_BYTES) -> bytes:
    """The content of one of the files, if it is what was written when the run began.

    Raises:
        RunError: It is missing, unreadable, damaged or edited; so is the manifest.
    """
    manifest = _read(folder)
    expected = [files[name] for files in (manifest.files, manifest.next) if name in files]
    try:
        content = read_bytes(folder / name, most)
    except UnreadableError as error:
        raise RunError(str(error)) from error
    if expected and _file(content) not in expected:
        said = f"{folder / name} is damaged or was edited: it is not what {_place(folder).name} recorded"
        accept = command_line("resume", folder, "--accept-changes")
        raise RunError(f"{said}. {'Undo that, or accept it: ' + accept if name == EDITABLE else 'Restore it from a copy'}")
    return content


def is_expected(folder: Path, name: str) -> bool:
    """Whether the run has such a file: by its manifest, or where it has none, by the folder."""
    return name in _read(folder).files if _place(folder).exists() else (folder / name).is_file()


def accept_edits(folder: Path) -> None:
    """Vouch for experiment.json as it is now: a person has changed it and says so. Nothing else can be accepted.

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
    """Write some of the files anew, in the order given, and vouch for them.

    Where a kill comes in between, the manifest vouches for each of them as it was and as it is to be.

    Raises:
        RunError: The manifest is damaged.
        WriteError: The disk is full or failing.
    """
    before, after = _read(folder).files, {name: _file(content) for name, content in contents.items()}
    if _place(folder).exists():
        _write(folder, _Manifest(files=before, next=after))
    for name, content in contents.items():
        write_bytes(folder / name, content)
    _write(folder, _Manifest(files={**before, **after}))


def _place(folder: Path) -> Path:
    return folder / "manifest.json"


def _write(folder: Path, manifest: _Manifest) -> None:
    write_json(_place(folder), manifest.model_dump(exclude=None if manifest.next else {"next"}))


def _read(folder: Path) -> _Manifest:
    if not _place(folder).exists():
        return _Manifest(files={})
    try:
        return _Manifest.model_validate(read_object(_place(folder)))
    except UnreadableError as error:
        raise RunError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{_place(folder)} is damaged: {where}: {first['msg']}") from error
