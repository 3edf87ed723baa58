"""What a run folder records of its run: one class for each kind of record, which writes it and reads it.

A record that is read is complete and has the right types, or is refused in one line. `FORMAT` is the number of the form
that all records of a run folder have. It stands in provenance.json and in ending.json. The lines of metrics.jsonl go by that
of the provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from minigpt.errors import RunError, UnreadableError
from minigpt.experiment import MAX_COUNT
from minigpt.run.status import Status
from minigpt.system.files import json_bytes, parse_object

FORMAT: Literal[1] = 1
"""Of what this version writes. A change that an older version could not read, or would misread, needs another number."""

JsonObject = dict[str, JsonValue]

MIGRATIONS: Mapping[int, Callable[[JsonObject], JsonObject]] = {}
"""For each older format that can still be read: makes of a record of that format one of the next."""

MAX_THREADS = 1024
"""Of the CPU; with some ten thousand the system gives no more, and the process ends without a word."""

LARGEST = 1e100
"""Of a number in a record, either way: beyond every loss and every count, and sums and squares of it are finite."""

MAX_TOKENS = 10**18

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class Section(BaseModel):
    """A part of a record: immutable, without conversions, and without keys that it does not know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Versions(Section):
    """Of the software that a run is computed by."""

    minigpt: str
    python: str
    torch: str
    numpy: str


class Machine(Section):
    """Where a run is trained."""

    system: str
    """As the platform names itself."""
    processor: str
    cores: int | None
    """Of the machine; None where the system does not say."""
    threads: Annotated[int, Field(gt=0, le=MAX_THREADS)]
    """That torch computes with."""
    device: Annotated[str, Field(pattern="^(cpu|cuda|mps)$")]
    device_name: str | None
    """Of a CUDA device; None for others."""


class Data(Section):
    """What a run is trained on."""

    fingerprint: str
    """SHA-256 of both splits' content."""
    tokenizer: str | None
    """SHA-256 of what the tokenizer learned; None for a synthetic task."""
    vocab_size: Annotated[int, Field(gt=0, le=MAX_COUNT)]
    entropies: dict[str, float] | None
    """The training split's, in nats a token, by name; None for a synthetic task."""
    notes: tuple[str, ...]
    """What the corpus says of itself."""
    train_tokens: int
    """Tokens of the training split; of a synthetic task, targets."""


class Evaluation(Section):
    """How the validation loss is measured."""

    split: str
    targets: int
    """Tokens that are predicted."""
    bytes: int | None
    """UTF-8 bytes of these; None for a synthetic task."""
    window: int
    """Tokens that the model sees at once."""
    stride: int
    """Tokens from one window to the next."""


class Component(Section):
    """A part that a run uses."""

    component: str
    """`family/name`."""
    file: str | None
    """The source file; None for a class that was typed in."""
    sha256: str | None
    """Of its source, and of what that imports."""
    distribution: str | None
    """The installed package that it comes from."""
    version: str | None
    """Of that package."""


class Git(Section):
    """The state of the working folder's repository."""

    commit: str
    uncommitted: str | None
    """SHA-256 of what is not committed, or `unknown`; None where everything is."""


class Origin(Section):
    """Everything that a run's numbers come from."""

    format: Literal[1] = FORMAT
    """Of the run folder's records."""
    started: str
    """When, in UTC."""
    command: tuple[str, ...]
    """The words of the command line."""
    versions: Versions
    machine: Machine
    precision: Annotated[str, Field(pattern="^(fp32|bf16)$")]
    """The one that is used, never `auto`."""
    experiment: JsonObject
    """The settings that belong to the run's identity, resolved."""
    data: Data
    evaluation: Evaluation
    core: str
    """SHA-256 of the source that every training goes through."""
    components: tuple[Component, ...]
    git: Git | None
    """None outside of a repository."""
    folder: str | None = None
    """The run folder's place when it was written; None until then."""

    def sources(self) -> dict[str, str | None]:
        """The SHA-256 of each part's source, by `family/name`."""
        return {each.component: each.sha256 for each in self.components}


class Segment(Section):
    """A stretch of updates that follow from one identity."""

    from_update: Count
    """Updates that had been done when it began."""
    started: str
    """When, in UTC."""
    changes: tuple[str, ...]
    """What is not as in the segment before, a line each."""
    provenance: Origin | None = None
    """What its numbers come from; None for the last segment, whose origin is the provenance itself."""

    @property
    def line(self) -> str:
        """For whoever looks at the run."""
        return f"from update {self.from_update:,} on: {'; '.join(self.changes) or 'continued after a change'}"


class Provenance(Origin):
    """provenance.json: where a run's numbers come from, and the segments that it consists of."""

    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    """The first one first."""

    def later_segments(self) -> list[str]:
        """The changes that the run was continued with, a line a segment; empty for a run that is of one piece."""
        return [segment.line for segment in self.segments[1:]]

    def origin(self) -> Origin:
        """It without its segments."""
        return Origin(**{name: getattr(self, name) for name in Origin.model_fields})

    def content(self) -> bytes:
        """The file's content."""
        document = self.model_dump(mode="json")
        for segment in document["segments"]:
            if segment["provenance"] is None:
                del segment["provenance"]
        return json_bytes(document)


class Ending(Section):
    """ending.json: how a session ended, where nothing else in the folder shows it."""

    format: Literal[1] = FORMAT
    """Of the run folder's records."""
    status: Literal[Status.DIVERGED, Status.CRASHED]
    message: str
    """What happened."""

    def content(self) -> bytes:
        """The file's content."""
        return json_bytes(self.model_dump(mode="json"))


class MetricsRow(Section):
    """A line of metrics.jsonl: what is recorded of an update. Of a number that is None nothing is written."""

    step: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    """Updates done, this one included."""
    tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    """Seen so far."""
    seconds: Number
    """Of training so far, evaluation and saving left out."""
    wall: Number
    """Since the run began, over all sessions."""
    train_loss: Number | None = None
    """Of the update's batch, in nats a token; None where it was not finite."""
    lr: Number
    """The learning rate of the optimizer's first group."""
    auxiliary_loss: Number | None = None
    """What components add to the loss; None where nothing is added."""
    grad_norm: Number | None = None
    """Before clipping; None where it was not finite."""
    skipped: Count | None = None
    """Updates left out so far; None where this one was not."""
    tokens_per_second: Number
    other_cpu: Number | None = None
    """CPU seconds of other processes since the row before that has it."""
    val_loss: Number | None = None
    """Over the whole validation split, in nats a target; None where the model was not evaluated."""
    val_perplexity: Number | None = None
    val_bits_per_byte: Number | None = None
    """None for a synthetic task too."""

    def to_json(self) -> dict[str, float]:
        """What stands in the line."""
        return self.model_dump(exclude_none=True)


Read = TypeVar("Read", Provenance, Ending)


def read_record(kind: type[Read], content: bytes, file: Path) -> Read:
    """A record from its file's content.

    Raises:
        RunError: It is damaged, or has a format that this version does not read.
    """
    try:
        document: JsonObject = parse_object(content, file)
    except UnreadableError as error:
        raise RunError(str(error)) from error
    if document:
        document = _migrated(document, file)
    missing = {name for name, field in kind.model_fields.items() if field.is_required()} - set(document)
    if missing:
        raise RunError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}")
    try:
        return kind.model_validate_json(json_bytes(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{file} is damaged: {where}: {first['msg']}") from error
    except RecursionError as error:
        raise RunError(f"{file} is damaged: nested too deeply") from error


def _migrated(document: JsonObject, file: Path) -> JsonObject:
    """A record in the present format.

    Raises:
        RunError: Its format is none that can be read.
    """
    number = document.get("format")
    while isinstance(number, int) and number in MIGRATIONS:
        document = MIGRATIONS[number](document)
        number = document["format"]
    if number != FORMAT or isinstance(number, bool):
        versions = document.get("versions")
        by = versions.get("minigpt") if isinstance(versions, dict) else None
        wrote = f"minigpt {by}" if isinstance(by, str) else "another version of minigpt"
        has = "has no format number" if number is None else f"has the format {str(number)[:20]}"
        raise RunError(
            f"{file} {has}, and this version reads {FORMAT}; open the run with the version that wrote it: {wrote}"
        )
    return document
