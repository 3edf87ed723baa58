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
from minigpt.files import MAX_JSON_BYTES, read_bytes, read_object, write_bytes, write_json

EDITABLE = "experiment.json"
"""The file that a person may change, and then accept."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _File(_Strict):
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Manifest(_Strict):
    format: Literal[1] = 1
    files: dict[str, _File]


def _file(content: bytes) -> _File:
    return _File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_manifest(folder: Path, contents: dict[str, bytes]) -> None:
    """Vouch for files by their names. Raises WriteError where it cannot be written."""
    files = {name: _file(content) for name, content in contents.items()}
    write_json(_place(folder), _Manifest(files=files).model_dump())


def checked_bytes(folder: Path, name: str, most: int = MAX_JSON_BYTES) -> bytes:
    """The content of one of the files, if it is what was written when the run began.

    Raises:
        RunError: It is missing, unreadable, damaged or edited; so is the manifest.
    """
    expected = _read(folder).get(name)
    try:
        content = read_bytes(folder / name, most)
    except UnreadableError as error:
        raise RunError(str(error)) from error
    if expected is not None and _file(content) != expected:
        said = f"{folder / name} is damaged or was edited: it is not what {_place(folder).name} recorded"
        accept = command_line("resume", folder, "--accept-changes")
        raise RunError(f"{said}. {'Undo that, or accept it: ' + accept if name == EDITABLE else 'Restore it from a copy'}")
    return content


def is_expected(folder: Path, name: str) -> bool:
    """Whether the run has such a file: by its manifest, or where that does not say, by the folder."""
    return name in _read(folder) or (folder / name).is_file()


def accept_edits(folder: Path) -> None:
    """Vouch for experiment.json as it is now: a person has changed it and says so. Nothing else can be accepted.

    Raises:
        RunError: The manifest is damaged, or experiment.json cannot be read.
        WriteError: The disk is full or failing.
    """
    files = _read(folder)
    if EDITABLE not in files:
        return
    try:
        now = _file(read_bytes(folder / EDITABLE, MAX_JSON_BYTES))
    except UnreadableError as error:
        raise RunError(str(error)) from error
    if now != files[EDITABLE]:
        write_json(_place(folder), _Manifest(files={**files, EDITABLE: now}).model_dump())


def replace_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write some of the files anew, in the order given, and vouch for them.

    Where a kill comes in between, nothing vouches for these files, and they are read all the same.

    Raises:
        RunError: The manifest is damaged.
        WriteError: The disk is full or failing.
    """
    others = {name: file for name, file in _read(folder).items() if name not in contents}
    if _place(folder).exists():
        write_json(_place(folder), _Manifest(files=others).model_dump())
    for name, content in contents.items():
        write_bytes(folder / name, content)
    files = {**others, **{name: _file(content) for name, content in contents.items()}}
    write_json(_place(folder), _Manifest(files=files).model_dump())


def _place(folder: Path) -> Path:
    return folder / "manifest.json"


def _read(folder: Path) -> dict[str, _File]:
    if not _place(folder).exists():
        return {}
    try:
        return _Manifest.model_validate(read_object(_place(folder))).files
    except UnreadableError as error:
        raise RunError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{_place(folder)} is damaged: {where}: {first['msg']}") from error
