"""A run that is continued with a change: what may change, and how its history says so.

A run is one segment where all of its updates follow from one identity. A change begins another segment; such a run can be
used, and stands for nothing but itself: a comparison takes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.errors import RunError, count
from minigpt.run.provenance import Change

FIXED: Mapping[str, str] = {
    "name": "it names the run folder",
    "plugins": "the run has its own copies, which an update can be traced to",
    "seed": "the weights were drawn with it",
    "tokenizer": "the weights are for its vocabulary",
    "model": "the weights are those of this model",
}
"""Settings that a run keeps once it has begun (by path, with all below), with the reason."""

FREE_IN_MODEL = ("model.dropout", "model.z_loss")
"""Settings of the model that take part in training only."""


@dataclass(frozen=True)
class Segment:
    """A stretch of updates that follow from one identity.

    Attributes:
        from_update: Updates that had been done when it began.
        started: When, in UTC.
        changes: What is not as in the segment before, a line each.
    """

    from_update: int
    started: str
    changes: tuple[str, ...]

    @property
    def line(self) -> str:
        """For whoever looks at the run."""
        return f"from update {self.from_update:,} on: {'; '.join(self.changes) or 'continued after a change'}"


def segments_of(recorded: Mapping[str, Any]) -> list[Segment]:
    """The segments that a provenance records, the first one first."""
    listed = recorded.get("segments", [])
    return [Segment(row["from_update"], row["started"], tuple(row["changes"])) for row in listed]


def later_segments(recorded: Mapping[str, Any]) -> list[str]:
    """The changes that a run was continued with, a line a segment; empty for a run that is of one piece."""
    return [segment.line for segment in segments_of(recorded)[1:]]


def continued(
    recorded: Mapping[str, Any], now: Mapping[str, Any], changes: Sequence[Change], from_update: int
) -> dict[str, Any]:
    """The provenance of a run that is continued with changes: that of the present, and the history.

    Args:
        recorded: The run's provenance so far; it is kept in the history, as that of the segment that ends here.
        now: What a run would record that begins now.
        changes: That there are.
        from_update: Updates that are done.
    """
    earlier = [dict(row) for row in recorded.get("segments", [])] or [
        {"from_update": 0, "started": recorded.get("started", ""), "changes": []}
    ]
    earlier[-1]["provenance"] = {key: value for key, value in recorded.items() if key != "segments"}
    lines = [change.line for change in changes]
    return {**now, "segments": [*earlier, {"from_update": from_update, "started": now["started"], "changes": lines}]}


def refuse_fixed(run: str, changes: Sequence[Change]) -> None:
    """Refuse to change what a run keeps once it has begun.

    Raises:
        RunError: Naming every such setting, with the reason.
    """
    lines = [f"{_named(change).line}: {reason}" for change in changes if (reason := _reason(change))]
    if lines:
        them = "this setting" if len(lines) == 1 else "these settings"
        raise RunError(
            f"{run} cannot be continued with another value of {them}: {'; '.join(lines)}. Begin another run for it"
        )


def refuse_beyond(run: str, max_iters: int, step: int) -> None:
    """Refuse an end that lies behind.

    Raises:
        RunError: More updates are done already.
    """
    if step > max_iters:
        raise RunError(f"{run}: training.max_iters is {max_iters:,}, and {count(step, 'update')} are done; set it to more")


def _reason(change: Change) -> str | None:
    if change.what.startswith(FREE_IN_MODEL):
        return None
    if change.what.startswith("training.optimizer") and change.what != _named(change).what:
        return "what another optimizer remembers is not here"
    return next(
        (reason for path, reason in FIXED.items() if change.what == path or change.what.startswith(f"{path}.")), None
    )


def _named(change: Change) -> Change:
    """The change of a whole component, as that of its name."""
    pair = change.before, change.now
    if all(isinstance(value, dict) and "name" in value for value in pair):
        return Change(f"{change.what}.name", change.before["name"], change.now["name"])
    return change
