"""A run that is continued with a change: what may change, and how its history says so.

A run is one segment where all of its updates follow from one identity. A change begins another segment; such a run can be
used, and stands for nothing but itself: a comparison takes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minigpt.errors import RunError, count
from minigpt.run.provenance import Change
from minigpt.run.recorded import Provenance, Segment

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


def continued(recorded: Provenance, now: Provenance, changes: Sequence[Change], from_update: int) -> Provenance:
    """The provenance of a run that is continued with changes: that of the present, and the history.

    Args:
        recorded: The run's provenance so far; it is kept in the history, as that of the segment that ends here.
        now: What a run would record that begins now.
        changes: What is another than it was.
        from_update: Updates that are done.
    """
    *earlier, ending = recorded.segments
    ended = ending.model_copy(update={"provenance": recorded.origin()})
    lines = tuple(change.line for change in changes)
    begun = Segment(from_update=from_update, started=now.started, changes=lines)
    return now.model_copy(update={"segments": (*earlier, ended, begun)})


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
    before, now = change.before, change.now
    if isinstance(before, dict) and isinstance(now, dict) and "name" in before and "name" in now:
        return Change(f"{change.what}.name", before["name"], now["name"])
    return change
