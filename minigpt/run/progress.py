"""How far a training has come: the numbers in a checkpoint's state.json, checked when they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from minigpt.run.recorded import MetricsRow

Done = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Progress:
    """How far training has come; together with the weights and the optimizer, all that resuming needs.

    Attributes:
        step: Updates done. Data order, dropout and samples follow from it and the seed.
        tokens: Tokens seen.
        seconds: Training time, evaluation and saving left out.
        wall: Time since the run began, all sittings added up.
        best_step: Step of the lowest validation loss so far.
        best_val_loss: That loss, in nats a token.
        metrics_bytes: Length of metrics.jsonl that belongs to these steps.
        samples_bytes: Length of samples.txt that belongs to these steps.
        skipped: Updates whose loss or gradient was not finite, and which changed nothing (`training.non_finite`).
        skipped_in_a_row: Of these the last ones, that no other came between.
        pending: The record of the last update where it is not in metrics.jsonl yet (stopped before its evaluation).
        metrics_sha256: Of these bytes of metrics.jsonl; None in a checkpoint that was written before it was recorded.
        samples_sha256: Of these bytes of samples.txt; likewise.
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
        """What stands in state.json."""
        return {**vars(self), "pending": self.pending.to_json() if self.pending else None}


_PROGRESS = TypeAdapter(Progress)


def read_progress(value: JsonValue) -> Progress:
    """A damaged one is refused here, and not where a number of it is used.

    Raises:
        ValueError: A number is missing, of another kind, or below zero.
    """
    try:
        progress = _PROGRESS.validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(['progress', *map(str, first['loc'])])}: {first['msg']}") from error
    if progress.pending is not None and progress.pending.step != progress.step:
        raise ValueError(f"progress.pending is no record of update {progress.step}")
    return progress
