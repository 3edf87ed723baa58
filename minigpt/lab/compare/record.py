"""comparison.json: written and read in this place alone, with a format number and a digest of its own.

The digest finds damage and edits. The types hold against a file that a stranger made: whatever is read here, the report can
show.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from minigpt.errors import RunError, UnreadableError
from minigpt.run.status import Status
from minigpt.system.files import read_object, write_json

FORMAT = 1
_MAX_BYTES = 1 << 28  # it has a loss for each place in the window, of each run
_DEEPEST = 40  # nesting of an experiment

_Number = Annotated[float, Field(ge=-1e100, le=1e100)]
_Count = Annotated[int, Field(ge=0, le=10**30)]
_Text = Annotated[str, Field(max_length=1 << 16)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def _plain(value: Any, depth: int = 0) -> Any:
    """JSON that can be written again: no NaN, no half characters, no nesting without end."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            _plain(key, depth + 1)
            _plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _plain(item, depth + 1)
    elif isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"found {value}")
    return value


class _Part(BaseModel):
    """Strict types; keys that the report does not use are left alone."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Settings(_Part):
    seeds: Annotated[list[_Count], Field(min_length=1)]
    unit: Literal["nats", "bits-per-byte"]
    delta: Annotated[float, Field(gt=0, le=1e100)]
    budget: Literal["tokens", "flops", "time", "steps"] | None
    match: Literal["params", "flops", "state"] | None


class _Cost(_Part):
    total: _Count
    active: _Count
    context: _Count
    train_flops: _Count
    activation_bytes: _Count
    state_bytes_token: _Count
    state_bytes: _Count


_Interval = Annotated[list[_Number | None], Field(min_length=2, max_length=2)]


class _Difference(_Part):
    mean: _Number
    interval: _Interval
    plain_interval: _Interval
    family: _Count
    p: _Number | None
    effect: _Number | None

    @model_validator(mode="after")
    def _interval_is_whole(self) -> _Difference:
        known = [number is not None for number in (*self.interval, *self.plain_interval, self.p)]
        if any(known[:2]) and not all(known):
            raise ValueError("an interval has two ends, the plain one beside it, and a p")
        return self


class _Run(_Part):
    seed: _Count
    outcome: Annotated[Status, Field(strict=False)]
    run: _Text
    message: _Text
    loss: _Number | None
    best: _Number | None
    seconds: _Number | None
    tokens_per_second: _Number | None
    speed_quartiles: Annotated[list[_Number], Field(min_length=2, max_length=2)] | None
    others: Annotated[float, Field(ge=0, le=1e100)] | None
    machine: _Text | None
    precision: _Text | None
    position_loss: list[_Number | None]


class _Variant(_Part):
    name: _Name
    source: _Text
    description: _Text
    adjusted: list[_Text]
    experiment: Annotated[dict[str, Any], AfterValidator(_plain)]
    tokens: _Count
    training_flops: _Count
    cost: _Cost
    mean: _Number | None
    sd: _Number | None
    verdict: _Text
    difference: _Difference | None
    runs: list[_Run]

    @model_validator(mode="after")
    def _places_are_alike(self) -> _Variant:
        if len({len(run.position_loss) for run in self.runs if run.position_loss}) > 1:
            raise ValueError("runs have losses at different numbers of places")
        return self


class _Lost(_Part):
    name: _Text
    source: _Text
    message: _Text


class _Comparison(_Part):
    format: Literal[1]
    name: _Text
    settings: _Settings
    lost: list[_Lost] = []
    variants: Annotated[list[_Variant], Field(min_length=1)]


def write_record(file: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Write a comparison's document, and return it as it stands in the file. Raises WriteError as `write_json` does."""
    sealed = seal(document)
    write_json(file, sealed)
    return sealed


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its format number and digest; a number that is not finite, which JSON does not have, is null."""
    plain = {"format": FORMAT, **{key: value for key, value in _finite(document).items() if key != "sha256"}}
    return {**plain, "sha256": _digest(plain)}


def read_record(file: Path) -> dict[str, Any]:
    """A comparison's document.

    Raises:
        RunError: It is damaged, was edited, or has another format.
    """
    try:
        document = read_object(file, _MAX_BYTES)
    except UnreadableError as error:
        raise RunError(str(error)) from error
    again = "Call minigpt compare again, which writes it anew"
    if document.get("format") != FORMAT:
        raise RunError(f"{file} has the format {_abbreviated(document.get('format'))}; this version reads {FORMAT}. {again}")
    if document.pop("sha256", None) != _digest(document):
        raise RunError(f"{file} is damaged or was edited: it does not have the digest in it. {again}")
    try:
        return _Comparison.model_validate(document).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{file} is damaged: {where}: {first['msg']}. {again}") from error


def _digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True)  # ASCII: half a character is written as its escape
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _abbreviated(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 20 else f"{text[:17]}..."
