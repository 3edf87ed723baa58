"""The progress of a training: numbers in a checkpoint's state.json, checked when they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from minigpt.registry.problems import first_problem
from minigpt.run.recorded import MetricsRow

Done = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Progress:
    """The progress of a training. Resuming needs only this, the weights and the optimizer's state.

    Attributes:
        step: Updates done. With the seed it determines data order, dropout and samples.
        tokens: Training tokens seen.
        seconds: Training time in seconds, without evaluation and saving.
        wall: Time in seconds since the run began, as the sum over all sessions.
        best_step: Step of the lowest validation loss so far.
        best_val_loss: The lowest validation loss so far, in nats per token.
        metrics_bytes: Length of metrics.jsonl up to this step.
        samples_bytes: Length of samples.txt up to this step.
        skipped: Updates that were skipped because loss or gradient was not finite (`training.non_finite`).
        skipped_in_a_row: Current streak of skipped updates.
        pending: The record of the last update if it is not in metrics.jsonl yet (stopped before its evaluation).
        metrics_sha256: SHA-256 of the first metrics_bytes bytes of metrics.jsonl; None in checkpoints of old versions.
        samples_sha256: SHA-256 of the first samples_bytes bytes of samples.txt; None in checkpoints of old versions.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # for reading it

    step: Done = 0
    tokens: Done = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    wall: Annotated[float, Field(ge=0)] = 0.0
    best_step: int | None = None
    best_val_loss: float | None = None
    metrics_bytes: Done = 0
    samples_bytes: Done = 0
    skipped: Done = 0
    skipped_in_a_row: Done = 0
    pending: MetricsRow | None = None
    metrics_sha256: Digest | None = None
    samples_sha256: Digest | None = None

    def to_json(self) -> dict[str, object]:
        """The progress as state.json has it."""
        return {**vars(self), "pending": self.pending.to_json() if self.pending else None}


_PROGRESS = TypeAdapter(Progress)


def read_progress(value: JsonValue) -> Progress:
    """Read and check the progress from state.json.

    Raises:
        ValueError: A number is missing, has the wrong type, or is negative.
    """
    try:
        progress = _PROGRESS.validate_json(json.dumps(value))
    except ValidationError as error:
        raise ValueError(f"progress.{first_problem(error)}") from error
    if progress.pending is not None and progress.pending.step != progress.step:
        raise ValueError(f"progress.pending is not the record of update {progress.step}")
    return progress
