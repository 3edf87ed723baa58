"""How far a training has come: the numbers in a checkpoint's state.json, checked when they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from minigpt.run.packing import is_number

_DIGEST = re.compile("[0-9a-f]{64}")


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

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    wall: float = 0.0
    best_step: int | None = None
    best_val_loss: float | None = None
    metrics_bytes: int = 0
    samples_bytes: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    pending: dict[str, float] | None = None
    metrics_sha256: str | None = None
    samples_sha256: str | None = None


def read_progress(value: Any) -> Progress:
    """A damaged one is refused here, and not where a number of it is used.

    Raises:
        ValueError: A number is missing, of another kind, or below zero.
        TypeError: It is no object, or has other keys.
    """
    progress = Progress(**value)
    for name in ("step", "tokens", "metrics_bytes", "samples_bytes", "seconds", "wall", "skipped", "skipped_in_a_row"):
        number = getattr(progress, name)
        kinds = (int, float) if name in ("seconds", "wall") else (int,)
        if isinstance(number, bool) or not isinstance(number, kinds) or not 0 <= number < float("inf"):
            raise ValueError(f"progress.{name} is {number!r}")
    for name, allowed in (("best_step", int), ("best_val_loss", float), ("pending", dict)):
        if not isinstance(getattr(progress, name), allowed | None):
            raise ValueError(f"progress.{name} is {getattr(progress, name)!r}")
    for name in ("metrics_sha256", "samples_sha256"):
        digest = getattr(progress, name)
        if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise ValueError(f"progress.{name} is {digest!r}")
    row = progress.pending
    if row is not None and (row.get("step") != progress.step or not all(map(is_number, row.values()))):
        raise ValueError(f"progress.pending is no record of update {progress.step}")
    return progress
