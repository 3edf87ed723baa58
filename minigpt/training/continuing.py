"""What a run is to be continued with, and what of it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.errors import RunError
from minigpt.experiment import Experiment
from minigpt.run import optimizer_state
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.identity import differing, settings_of
from minigpt.run.provenance import Change
from minigpt.training.estimate import Speed


@dataclass(frozen=True)
class Asked:
    """How a run is to be continued: its experiment as it stands in the folder, and the arguments of `resume`."""

    begun: Experiment
    overrides: tuple[str, ...]
    device: str | None
    threads: int | None
    accept_changes: bool
    allow_plugins: bool

    def names(self, change: Change) -> bool:
        """Whether a change was asked for by its name."""
        match change.what:
            case "the device":
                return self.device is not None
            case "the number of threads":
                return self.threads is not None
        path = "data" if change.what == "the data" else change.what
        return any(_lead_to_each_other(path, override.partition("=")[0].strip()) for override in self.overrides)


def _lead_to_each_other(one: str, other: str) -> bool:
    """Whether of two paths of settings one is the other, or above it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def changed_settings(recorded: dict[str, Any], begun: Experiment, experiment: Experiment) -> list[Change]:
    """Settings that are not those of the run's last segment, or not those in its folder."""
    after = experiment.to_json()
    found = [Change(*difference) for difference in differing(begun.to_json(), after)]
    trained = recorded.get("experiment")
    if isinstance(trained, dict):
        found += [Change(*difference) for difference in differing(trained, settings_of(after))]
    return list({change.what: change for change in found}.values())


def check_state(folder: RunFolder, start: Checkpoint, speed: Speed, changes: Sequence[Change]) -> None:
    """Whether the optimizer can continue from what it remembers.

    Raises:
        RunError: A setting of it that was changed gives its state another form.
        CheckpointError: It is another optimizer's.
    """
    settings = [change.line for change in changes if change.what.startswith("training.optimizer.")]
    if settings and not optimizer_state.continues(start.optimizer, speed.sizes, speed.state):
        raise RunError(
            f"{folder.path} cannot be continued with {'; '.join(settings)}: what the optimizer remembers has another form "
            "then. Begin another run for it"
        )
    start.check_optimizer(speed.state)
