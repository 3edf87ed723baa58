"""Continue a run with a change: check which settings may change, and record the change in the provenance.

A run has one segment if its identity was the same for all updates. A change begins another segment. A run with several
segments can be used, but no single experiment describes it, so a comparison refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minigpt.errors import RunError, count
from minigpt.run.provenance import Change
from minigpt.run.recorded import Provenance, Segment

FIXED: Mapping[str, str] = {
    "name": "it names the run folder",
    "plugins": "the run has its own copies, to which each update can be traced",
    "seed": "the weights were drawn with it",
    "tokenizer": "the weights are for its vocabulary",
    "model": "the weights are those of this model",
}
"""Settings that a run cannot change after it has begun (by path, with everything below it), with the reason."""

FREE_IN_MODEL = ("model.dropout", "model.objective")
"""Settings of the model that affect only training, so they may change."""


def continued(recorded: Provenance, now: Provenance, changes: Sequence[Change], from_update: int) -> Provenance:
    """The provenance of a run that is continued with changes: the present origin, and all segments.

    Args:
        recorded: The run's provenance so far; it is kept as the origin of the segment that ends now.
        now: The provenance of a run that would begin now.
        changes: The changes.
        from_update: Number of updates done.
    """
    *earlier, ending = recorded.segments
    ended = ending.model_copy(update={"provenance": recorded.origin()})
    lines = tuple(change.line for change in changes)
    begun = Segment(from_update=from_update, started=now.started, changes=lines)
    return now.model_copy(update={"segments": (*earlier, ended, begun)})


def refuse_fixed(run: str, changes: Sequence[Change]) -> None:
    """Refuse changes of settings that a run cannot change after it has begun.

    Raises:
        RunError: Names every such setting, with the reason.
    """
    lines = [f"{_named(change).line}: {reason}" for change in changes if (reason := _reason(change))]
    if lines:
        them = "this setting" if len(lines) == 1 else "these settings"
        raise RunError(
            f"{run} cannot be continued with another value of {them}: {'; '.join(lines)}. Begin a new run instead"
        )


def refuse_beyond(run: str, max_iters: int, step: int) -> None:
    """Refuse a number of updates that the run has passed already.

    Raises:
        RunError: More updates than `max_iters` are done already.
    """
    if step > max_iters:
        raise RunError(f"{run}: training.max_iters is {max_iters:,}, but {count(step, 'update')} are done; set it higher")


def _reason(change: Change) -> str | None:
    if change.what.startswith(FREE_IN_MODEL):
        return None
    if change.what.startswith("training.optimizer") and change.what != _named(change).what:
        return "the run has no state of another optimizer"
    return next(
        (reason for path, reason in FIXED.items() if change.what == path or change.what.startswith(f"{path}.")), None
    )


def _named(change: Change) -> Change:
    """The change of a whole component as the change of its name; other changes as they are."""
    before, now = change.before, change.now
    if isinstance(before, dict) and isinstance(now, dict) and "name" in before and "name" in now:
        return Change(f"{change.what}.name", before["name"], now["name"])
    return change
