"""The status of a run: the same words in `minigpt runs`, comparisons, reports, tables and files."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """The status of a run, or of its last session.

    `diverged` and `crashed` are recorded when they happen. The others follow from the files in the run folder, so they are
    also right for a run whose process was killed.
    """

    RUNNING = "running"
    """A process is training the run."""
    STOPPED = "stopped"
    """The run was interrupted or killed before its last update, and can be continued."""
    FINISHED = "finished"
    """The last update is done, evaluated and saved."""
    VIOLATED = "violated"
    """It is finished, but its trained model violates a property of `minigpt check`, so its loss means nothing."""
    DIVERGED = "diverged"
    """A loss, a gradient or a weight was not finite."""
    CRASHED = "crashed"
    """An unexpected error was raised, or the process ended unexpectedly."""
    MISSING = "missing"
    """The run was not begun."""
    DAMAGED = "damaged"
    """The run's files cannot be read."""
