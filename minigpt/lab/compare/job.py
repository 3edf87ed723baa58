"""What the process of a cell receives, and how long it is waited for."""

from __future__ import annotations

from typing import TypedDict

SAVES_WITHIN = 60.0
"""Seconds from being asked to stop to being gone: an update, and a checkpoint. A plugin that hangs never comes to it."""


class Job(TypedDict):
    """One variant with one seed.

    Attributes:
        experiment: Its frozen file.
        corpus: Likewise.
        seed: Of this run.
        run: Its folder; trained there unless it is finished.
        record: Where the outcome is to be written.
        refusal: Where it is to be written that it cannot be trained as planned, which is no outcome.
        key: What the outcome follows from: the identity of the run. Copied into the outcome.
        device: As for `minigpt run`.
        threads: Likewise.
        allow_plugins: Likewise.
    """

    experiment: str
    corpus: str
    seed: int
    run: str
    record: str
    refusal: str
    key: str
    device: str
    threads: int | None
    allow_plugins: bool
