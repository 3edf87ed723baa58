"""The record of how a variant was tuned: every trial, and the values that were chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from minigpt.errors import count
from minigpt.lab.sealed import Count, Many, Number, Part, Text, plain_json
from minigpt.run.status import Status

Edge = Literal["lowest", "highest"]
Values = Annotated[dict[Text, JsonValue], BeforeValidator(plain_json)]
"""Settings by their paths."""


class Trial(Part):
    """A run that was trained to choose settings.

    Attributes:
        values: The tuned settings, by their paths.
        seed: The run's seed; no verdict uses it.
        outcome: The run's status.
        loss: Loss after the last update, in the comparison's unit; None if the run did not finish.
        message: What went wrong.
    """

    values: Values
    seed: Count
    outcome: Annotated[Status, Field(strict=False)]
    loss: Number | None = None
    message: Text = ""


class RecordedTuning(Part):
    """How a variant was tuned.

    Attributes:
        share: The part of the training that a trial had.
        written: The tuned settings as its file and the command have them.
        chosen: The values with the lowest mean loss over the seeds.
        edges: Settings whose chosen value is the lowest or the highest that was tried.
        trials: Every trial, in the order of training.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    written: Values
    chosen: Values
    edges: dict[Text, Edge] = Field(default_factory=dict)
    trials: Many[Trial]

    @model_validator(mode="after")
    def _settings_are_alike(self) -> Self:
        paths = self.chosen.keys()
        alike = (self.written, *(trial.values for trial in self.trials))
        if not self.edges.keys() <= paths or any(each.keys() != paths for each in alike):
            raise ValueError("trials need a value for each tuned setting")
        return self

    @property
    def seeds(self) -> list[int]:
        """The seeds of the trials."""
        return sorted({trial.seed for trial in self.trials})

    @property
    def tried(self) -> int:
        """The number of different settings that were tried."""
        return len({json.dumps(trial.values, sort_keys=True) for trial in self.trials})

    @property
    def failed(self) -> list[Trial]:
        """Trials without a loss. They count as worse than any other."""
        return [trial for trial in self.trials if trial.loss is None]

    @property
    def adjustments(self) -> tuple[str, ...]:
        """The choices in words, one for each setting."""
        budget = budget_of(self.share)
        failed = ", because no trial finished" if len(self.failed) == len(self.trials) else ""
        words = []
        for path, value in self.chosen.items():
            before, now = _shown(self.written[path]), _shown(value)
            change = f"{before} → {now}" if value != self.written[path] else f"stays {now}"
            edge = f", the {self.edges[path]} of those tried" if path in self.edges else ""
            words.append(f"{path} {change}{edge}{failed} (--tune: {count(self.tried, 'trial')}, {budget})")
        return tuple(words)


def budget_of(share: float) -> str:
    """The part of the training that trials had, in words."""
    return "full budget" if share == 1 else f"{share:.3g} of the updates"


def tuning_notes(tuned: Sequence[tuple[str, RecordedTuning | None]]) -> list[str]:
    """How the variants were tuned, for the notes below a table: one line about all, and one for each trial that failed.

    Args:
        tuned: The names of the variants, the base first, and how each was tuned; None if it was not.
    """
    known = [(name, tuning) for name, tuning in tuned if tuning is not None]
    if not known:
        return []
    first = known[0][1]
    paths = dict.fromkeys(path for _, tuning in known for path in tuning.chosen)
    parts = []
    for path in paths:
        having = [(name, tuning) for name, tuning in known if path in tuning.chosen]
        values = [len({json.dumps(trial.values[path]) for trial in tuning.trials}) for _, tuning in having]
        chosen = ", ".join(f"{name} {_shown(tuning.chosen[path])}" for name, tuning in having)
        numbers = f"{min(values)} to {max(values)}" if min(values) != max(values) else f"{max(values)}"
        part = f"{path} over {numbers} values ({chosen})"
        edges = [
            f"{name} is best at the edge {_shown(tuning.chosen[path])}" for name, tuning in having if path in tuning.edges
        ]
        parts.append("; ".join([part, *edges]))
    seeds = count(len(first.seeds), "tuning seed")
    lines = [f"tuned: {'; '.join(parts)}; {seeds}, {budget_of(first.share)}"]
    for name, tuning in known:
        lines += [
            f"{name}, trial {', '.join(f'{path} {_shown(value)}' for path, value in trial.values.items())}, "
            f"seed {trial.seed}: {trial.outcome}{trial.message and f': {trial.message}'}"
            for trial in tuning.failed
        ]
    return lines


def _shown(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
