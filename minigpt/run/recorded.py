"""What a run's provenance.json has to say, in which types; what stands beside it is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from minigpt.errors import RunError
from minigpt.experiment import MAX_COUNT

MAX_THREADS = 1024
"""Of the CPU; with some ten thousand the system gives no more, and the process ends without a word."""


def check_recorded(recorded: dict[str, Any], file: Path) -> None:
    """See that a provenance says what is used later.

    Raises:
        RunError: Something is missing, or is of another type.
    """
    missing = {name for name, field in _Provenance.model_fields.items() if field.is_required()} - set(recorded)
    if missing:
        raise RunError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}")
    try:
        _Provenance.model_validate(recorded)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{file} is damaged: {where}: {first['msg']}") from error


class _Recorded(BaseModel):
    """A part of provenance.json that is used later; what stands beside it is left alone."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Versions(_Recorded):
    minigpt: str
    python: str
    torch: str
    numpy: str


class _Git(_Recorded):
    commit: str
    uncommitted: str | None


class _Machine(_Recorded):
    processor: str
    device: Literal["cpu", "cuda", "mps"]
    threads: Annotated[int, Field(gt=0, le=MAX_THREADS)]


class _Data(_Recorded):
    fingerprint: str
    tokenizer: str | None = None
    vocab_size: Annotated[int, Field(gt=0, le=MAX_COUNT)]
    entropies: dict[str, float] | None = None


class _Component(_Recorded):
    component: str
    file: str | None
    sha256: str | None


class _Segment(_Recorded):
    from_update: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    started: str
    changes: list[str]


class _Provenance(_Recorded):
    started: str
    versions: _Versions
    git: _Git | None = None
    machine: _Machine
    precision: Literal["fp32", "bf16"]
    data: _Data
    core: str
    components: list[_Component]
    experiment: dict[str, JsonValue] | str | None = None  # nested to a depth; a text where an older minigpt wrote it
    folder: str | None = None
    segments: list[_Segment] = []
