"""Records that are written to files and read from untrusted sources: strict types, a format number and a digest.

The digest reveals damage and edits. The types are strict enough that the report can show every record that is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from minigpt.errors import RunError, UnreadableError
from minigpt.printable import printable
from minigpt.registry.problems import first_problem
from minigpt.system.files import read_object, write_json

LARGEST = 1e100
"""Largest absolute value in a record: beyond every loss and count, yet sums and squares of it are finite."""

_MAX_BYTES = 1 << 28  # a comparison has a loss for each position in the window, for each run
_MAX_DEPTH = 40  # nesting of an experiment

_MAX_CHARACTERS = 1 << 16  # of a text; a plugin's error message may be longer
_MAX_PATH = 4096


def _text(value: object) -> object:
    """A printable text: without control characters and lone surrogates, cut to a maximum length."""
    return printable(value)[:_MAX_CHARACTERS] if isinstance(value, str) else value


def _path(value: str) -> str:
    if len(value) > _MAX_PATH:
        raise ValueError(f"a path of {len(value):,} characters")
    return value


_T = TypeVar("_T")
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**30)]
Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=200)]
FilePath = Annotated[str, AfterValidator(_path)]
Many = Annotated[tuple[_T, ...], Field(strict=False)]
Pair = Annotated[tuple[_T, _T], Field(strict=False)]


def plain_json(value: object, depth: int = 0) -> object:
    """Check that a JSON value can be written again: no NaN, no lone surrogates, limited nesting."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            plain_json(key, depth + 1)
            plain_json(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            plain_json(item, depth + 1)
    elif isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"found {value}")
    return value


class Part(BaseModel):
    """A part of the record: strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class Sealed(Part):
    """A whole file: a record with its format number and digest.

    Attributes:
        format_number: The number of the format that is written and read.
        again: What to do about a damaged file, as a sentence without a full stop.
    """

    format_number: ClassVar[int]
    again: ClassVar[str]

    def document(self) -> dict[str, JsonValue]:
        """The file's content, with format number and digest."""
        return seal(self.model_dump(mode="json"), self.format_number)

    def write(self, file: Path) -> None:
        """Write the file atomically. Raises WriteError as `write_json` does."""
        write_json(file, self.document())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the record in a file.

        Raises:
            RunError: The file is damaged, was edited, or has another format.
        """
        try:
            document = read_object(file, _MAX_BYTES)
        except UnreadableError as error:
            raise RunError(str(error)) from error
        number, known = document.get("format"), cls.format_number
        if number != known or isinstance(number, bool):
            raise RunError(f"{file} has the format {_abbreviated(number)}; this version reads {known}. {cls.again}")
        if document.pop("sha256", None) != _digest(document):
            raise RunError(f"{file} is damaged or was edited: its content does not match its digest. {cls.again}")
        del document["format"]
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise RunError(f"{file} is damaged: {first_problem(error)}. {cls.again}") from error


def seal(document: dict[str, JsonValue], format_number: int) -> dict[str, JsonValue]:
    """The document with its format number and digest."""
    kept = {key: value for key, value in document.items() if key not in ("format", "sha256")}
    plain: dict[str, JsonValue] = {"format": format_number, **kept}
    return {**plain, "sha256": _digest(plain)}


def _digest(document: dict[str, JsonValue]) -> str:
    text = json.dumps(document, sort_keys=True)  # ASCII, in which a lone surrogate is written as an escape
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _abbreviated(value: object) -> str:
    text = repr(value)
    return text if len(text) < 20 else f"{text[:17]}..."
