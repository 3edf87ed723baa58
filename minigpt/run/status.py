"""How a run stands: one list of words, for `runs`, comparisons, reports, tables and files alike."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a run stands, or how its last session ended.

    `diverged` and `crashed` are recorded when they happen; the others follow from the run folder, so that they hold for a
    run whose process was killed, too.
    """

    RUNNING = "running"
    """A process is at it."""
    STOPPED = "stopped"
    """It was interrupted or killed before its last update, and can go on."""
    FINISHED = "finished"
    """The last update is done, measured and saved."""
    DIVERGED = "diverged"
    """A loss, a gradient or a weight was not finite."""
    CRASHED = "crashed"
    """Something raised, or ended the process, that was not asked to."""
    MISSING = "missing"
    """It was never begun."""
    DAMAGED = "damaged"
    """Its files cannot be read."""
