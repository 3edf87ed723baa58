"""The records in a run folder: one class for each kind of record, which writes and reads it.

A record is refused with a one-line error if it is incomplete or has wrong types. All records of a run folder have the same
format, with the number `FORMAT`. It is written in provenance.json, ending.json and check.json. The lines of metrics.jsonl
have the format of the provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from minigpt.errors import RunError, UnreadableError
from minigpt.experiment import MAX_COUNT
from minigpt.registry.problems import first_problem
from minigpt.run.status import Status
from minigpt.system.files import json_bytes, parse_object

FORMAT: Literal[1] = 1
"""The format that this version writes. A change that older versions cannot read, or misread, needs a new number."""

JsonObject = dict[str, JsonValue]

MIGRATIONS: Mapping[int, Callable[[JsonObject], JsonObject]] = {}
"""For each older format that can still be read, a function that converts a record to the next format."""

MAX_THREADS = 1024
"""Most CPU threads; with some ten thousand the system refuses more, and the process ends without a message."""

LARGEST = 1e100
"""Largest absolute value in a record: beyond every loss and count, yet sums and squares of it are finite."""

MAX_TOKENS = 10**18

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class Section(BaseModel):
    """A part of a record: immutable, without type conversions, and without unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Versions(Section):
    """The versions of the software that computes a run."""

    minigpt: str
    python: str
    torch: str
    numpy: str


class Machine(Section):
    """The machine on which a run is trained."""

    system: str
    """The platform's own name."""
    processor: str
    cores: int | None
    """Number of cores; None if the system does not report it."""
    threads: Annotated[int, Field(gt=0, le=MAX_THREADS)]
    """Number of threads that torch uses."""
    device: Annotated[str, Field(pattern="^(cpu|cuda|mps)$")]
    device_name: str | None
    """Name of a CUDA device; None for other devices."""


class Data(Section):
    """The data that a run is trained on."""

    fingerprint: str
    """SHA-256 of the content of both splits."""
    tokenizer: str | None
    """SHA-256 of the fitted tokenizer; None for a synthetic task."""
    vocab_size: Annotated[int, Field(gt=0, le=MAX_COUNT)]
    entropies: dict[str, float] | None
    """Entropies of the training split by name, in nats per token; None for a synthetic task."""
    notes: tuple[str, ...]
    """The notes of the corpus."""
    train_tokens: int
    """Number of tokens of the training split; for a synthetic task, of targets."""
    documents: str | None = None
    """SHA-256 of where documents begin; None unless the batching uses it."""


class Evaluation(Section):
    """How the validation loss is measured."""

    split: str
    targets: int
    """Number of predicted tokens."""
    bytes: int | None
    """UTF-8 bytes of the predicted text; None for a synthetic task."""
    window: int
    """Number of tokens that the model sees at once."""
    stride: int
    """Number of tokens from one window to the next."""


class Component(Section):
    """A part that a run uses."""

    component: str
    """`family/name`."""
    file: str | None
    """The source file; None for a class that was typed in."""
    sha256: str | None
    """SHA-256 of its source, and of everything that the source imports."""
    distribution: str | None
    """The installed package that contains the part."""
    version: str | None
    """The version of that package."""


class Git(Section):
    """The state of the working folder's repository."""

    commit: str
    uncommitted: str | None
    """SHA-256 of the uncommitted changes, or `unknown`; None if there are none."""


class Origin(Section):
    """The origin of a run's numbers: code, data, machine, command."""

    format: Literal[1] = FORMAT
    """Format number of the run folder's records."""
    started: str
    """Start time in UTC."""
    command: tuple[str, ...]
    """The words of the command line."""
    versions: Versions
    machine: Machine
    precision: Annotated[str, Field(pattern="^(fp32|bf16)$")]
    """The precision that is used; never `auto`."""
    experiment: JsonObject
    """The settings that belong to the run's identity, resolved."""
    data: Data
    evaluation: Evaluation
    core: str
    """SHA-256 of the source that every training executes."""
    components: tuple[Component, ...]
    git: Git | None
    """The git state; None outside of a repository."""
    folder: str | None = None
    """The run folder's path when the record was written; None before that."""

    def sources(self) -> dict[str, str | None]:
        """The SHA-256 of each part's source, by `family/name`."""
        return {each.component: each.sha256 for each in self.components}


class Segment(Section):
    """Consecutive updates of a run during which its identity is the same."""

    from_update: Count
    """Number of updates done when the segment began."""
    started: str
    """Start time in UTC."""
    changes: tuple[str, ...]
    """Changes since the previous segment, one line each."""
    provenance: Origin | None = None
    """The origin of its numbers; None for the last segment, whose origin is the provenance itself."""

    @property
    def line(self) -> str:
        """The segment's changes as one line, for messages."""
        return f"from update {self.from_update:,} on: {'; '.join(self.changes) or 'continued after a change'}"


class Provenance(Origin):
    """The content of provenance.json: the origin of a run's numbers, and the run's segments."""

    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    """The segments in order."""

    def later_segments(self) -> list[str]:
        """The changes with which the run was continued, one line per segment; empty for a run of one segment."""
        return [segment.line for segment in self.segments[1:]]

    def origin(self) -> Origin:
        """The provenance without its segments."""
        return Origin(**{name: getattr(self, name) for name in Origin.model_fields})

    def content(self) -> bytes:
        """The file's content."""
        document = self.model_dump(mode="json")
        for segment in document["segments"]:
            if segment["provenance"] is None:
                del segment["provenance"]
        return json_bytes(document)


class Ending(Section):
    """The content of ending.json: how a session ended, if no other file in the folder shows it."""

    format: Literal[1] = FORMAT
    """Format number of the run folder's records."""
    status: Literal[Status.DIVERGED, Status.CRASHED]
    message: str
    """What happened."""

    def content(self) -> bytes:
        """The file's content."""
        return json_bytes(self.model_dump(mode="json"))


class CheckedProperty(Section):
    """A property of the trained model, as it was checked."""

    property: str
    """Its name, as in `minigpt check`."""
    verdict: Literal["pass", "fail", "skip"]
    """The verdict of the check; skip if the property could not be tried."""
    message: str = ""
    """What was observed, or why the property could not be tried."""


class ModelCheck(Section):
    """The content of check.json: the check of the trained model as a whole."""

    format: Literal[1] = FORMAT
    """Format number of the run folder's records."""
    minigpt: str
    """The version of minigpt that checked it."""
    update: Count
    """Updates done by the model that was checked."""
    properties: Annotated[tuple[CheckedProperty, ...], Field(min_length=1)]
    """The properties in the order of the check."""

    @property
    def violation(self) -> str | None:
        """The first violated property and what was observed, in one line; None if none is violated."""
        failed = (each for each in self.properties if each.verdict == "fail")
        return next((f"{each.property}: {each.message}" for each in failed), None)

    @property
    def reason(self) -> str | None:
        """Why the model's loss means nothing, in a sentence; None if no property is violated."""
        return None if self.violation is None else f"the trained model violates {self.violation}"

    @property
    def words(self) -> str:
        """The result in words: `holds`, or `violated: ...`."""
        return "holds" if self.violation is None else f"violated: {self.violation}"

    def content(self) -> bytes:
        """The file's content."""
        return json_bytes(self.model_dump(mode="json"))


NOT_CHECKED = "not checked"
"""The words for a trained model that was not checked since its last update."""


class MetricsRow(Section):
    """A line of metrics.jsonl: the record of an update. Numbers that are None are not written."""

    step: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    """Updates done, including this one."""
    tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    """Training tokens seen so far."""
    seconds: Number
    """Training time so far, without evaluation and saving."""
    wall: Number
    """Time in seconds since the run began, as the sum over all sessions."""
    train_loss: Number | None = None
    """Loss of the update's batch, in nats per token; None if it was not finite."""
    lr: Number
    """The learning rate of the optimizer's first group."""
    auxiliary_loss: Number | None = None
    """Sum of the losses that components add; None if there are none."""
    grad_norm: Number | None = None
    """Norm of the gradient before clipping; None if it was not finite."""
    skipped: Count | None = None
    """Number of updates skipped so far; None if this update was not skipped."""
    tokens_per_second: Number
    other_cpu: Number | None = None
    """CPU seconds of other processes since the previous row with this number."""
    val_loss: Number | None = None
    """Loss over the whole validation split, in nats per target; None if the model was not evaluated."""
    val_perplexity: Number | None = None
    val_bits_per_byte: Number | None = None
    """Bits per byte over the validation split; None also for a synthetic task."""

    def to_json(self) -> dict[str, float]:
        """The line's JSON object."""
        return self.model_dump(exclude_none=True)


Read = TypeVar("Read", Provenance, Ending, ModelCheck)


def read_record(kind: type[Read], content: bytes, file: Path) -> Read:
    """Read a record from the content of its file.

    Raises:
        RunError: The record is damaged, or has a format that this version cannot read.
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
        raise RunError(f"{file} is damaged: {first_problem(error)}") from error
    except RecursionError as error:
        raise RunError(f"{file} is damaged: nested too deeply") from error


def _migrated(document: JsonObject, file: Path) -> JsonObject:
    """Convert a record to the present format.

    Raises:
        RunError: The record has a format that cannot be read.
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
