"""Tune one variant: which trials it needs, and the values that it chooses from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from minigpt.errors import ExperimentError, MinigptError
from minigpt.lab.compare.sources import made_names
from minigpt.lab.compare.trials import Tune, around, best_of, beyond, edge_of, is_number, mean_or_worst, path_of
from minigpt.lab.compare.tuned import Edge, RecordedTuning, Trial, Values
from minigpt.lab.compare.variants import Source, Variant, read_variant, setting_at
from minigpt.reading import Reading

MOST_WIDENINGS = 3
"""How often a variant's grid of one setting is extended, each time by one value."""


@dataclass
class Tuner:
    """The tuning of one variant: its settings are tuned one after another, each at the best values of those before it.

    Attributes:
        variant: The variant as it would be compared without tuning.
        reading: How its file is read.
        written: The variant's own values of the settings.
        chosen: The best value of each setting so far; the own one before it is tuned.
        axes: The values that are tried of each setting.
        at: Index of the path that is tuned now.
        widened: How often its grid was extended.
        edges: Settings whose best value is at an edge of their grid.
        trials: The trials by their values, each with its adjusted variant and its runs.
    """

    variant: Variant
    reading: Reading
    written: Values
    chosen: Values
    axes: dict[str, list[JsonValue]] = field(default_factory=dict)
    at: int = 0
    widened: int = 0
    edges: dict[str, Edge] = field(default_factory=dict)
    trials: dict[str, tuple[Variant, list[Trial]]] = field(default_factory=dict)

    @classmethod
    def of(cls, variant: Variant, tunes: Sequence[Tune], reading: Reading) -> Tuner:
        """The tuner of a variant, with a grid for each setting.

        Raises:
            MinigptError: It has no such setting, or a grid of it needs values that are named.
        """
        paths = [_path(variant, tune) for tune in tunes]
        own = {path: setting_at(variant, path, "--tune") for path in paths}
        tuner = cls(variant, reading, dict(own), dict(own))
        for path, tune in zip(paths, tunes, strict=True):
            if path in tuner.axes:
                raise MinigptError(f"--tune {path} is given more than once; name all its values in one --tune")
            named = list({json.dumps(value): value for value in tune.values}.values())
            tuner.axes[path] = named or tuner._around(path)
            for value in named:  # as it is named, "gqa" is shown in place of all its parameters
                if setting_at(tuner.read({**own, path: value}), path, "--tune") == own[path]:
                    tuner.written[path] = tuner.chosen[path] = value
        return tuner

    def _around(self, path: str) -> list[JsonValue]:
        own = self.chosen[path]
        if not is_number(own) or own == 0:
            raise MinigptError(
                f"--tune {path}: {self.variant.name} has {json.dumps(own)}, and a grid around it needs a number other than "
                f"0; name the values, such as --tune {path}=v1,v2"
            )
        return list(around(own, lambda value: self._accepts(path, value)))

    def _accepts(self, path: str, value: JsonValue) -> bool:
        """Whether the experiment is valid with a value."""
        try:
            self.read({**self.chosen, path: value})
        except ExperimentError:
            return False
        return True

    def read(self, values: Values) -> Variant:
        """The variant with these values, as it would be compared. Raises ExperimentError."""
        return read_variant(self.source(values), self.reading)

    def source(self, values: Values, *others: str) -> Source:
        """The source of a trial.

        Args:
            values: The values of all tuned settings.
            others: Further settings of the trial.
        """
        texts = [(path, json.dumps(value)) for path, value in values.items()]
        settings = (*self.variant.source.settings, *others, *(f"{path}={text}" for path, text in texts))
        (name,) = made_names(self.variant.name, [texts])
        return Source(self.variant.source.path, settings, name)

    @property
    def path(self) -> str:
        """The path that is tuned now."""
        return list(self.axes)[self.at]

    def wanted(self) -> list[Values]:
        """The trials of the path that is tuned now that have no outcome yet."""
        if self.at == len(self.axes):
            return []
        trials = [{**self.chosen, self.path: value} for value in self.axes[self.path]]
        return [values for values in trials if _key(values) not in self.trials]

    def record(self, values: Values, variant: Variant, trials: Sequence[Trial]) -> None:
        """Record the runs of a trial.

        Args:
            values: Its values.
            variant: The variant as it was trained.
            trials: Its runs, one for each seed.
        """
        self.trials[_key(values)] = variant, list(trials)

    def advance(self) -> None:
        """Choose, extend the grid, or continue with the next path, until a trial is wanted or all paths are tuned."""
        while self.at < len(self.axes) and not self.wanted():
            path, grid = self.path, self.axes[self.path]
            keys = {_key({**self.chosen, path: value}): value for value in grid}
            losses = {key: mean_or_worst([trial.loss for trial in self.trials[key][1]]) for key in keys}
            key = best_of(losses, _key(self.chosen))
            best = self.chosen[path] if key is None else keys[key]
            edge = None if key is None else edge_of(grid, best)
            new = None if edge is None or self.widened == MOST_WIDENINGS else self._beyond(path, edge)
            if new is not None:
                grid.append(new)
                self.widened += 1
                continue
            self.chosen = {**self.chosen, path: best}
            self.edges |= {} if edge is None else {path: edge}
            self.at, self.widened = self.at + 1, 0

    def _beyond(self, path: str, edge: Edge) -> float | None:
        """The value with which the grid is extended; None if the experiment allows none."""
        new = beyond(sorted(value for value in self.axes[path] if is_number(value)), edge)
        return new if new is not None and self._accepts(path, new) else None

    def tuned(self, share: float, *, is_base: bool) -> Source:
        """The source with the chosen values, and the record of all trials.

        Args:
            share: The part of the training that a trial had.
            is_base: Whether it is the base. What made the base's trial comparable with the base as written then becomes
                part of its settings, because the other variants are made comparable with it.
        """
        changed = {path: value for path, value in self.chosen.items() if value != self.written[path]}
        settings = [f"{path}={json.dumps(value)}" for path, value in changed.items()]
        if is_base and settings:
            settings += _pinned(self.variant, self.trials[_key(self.chosen)][0], share)
        return replace(
            self.variant.source,
            settings=(*self.variant.source.settings, *settings),
            optional=False,  # it may have chosen the same values as another variant, and is compared nevertheless
            tuned=RecordedTuning(
                share=share,
                written=self.written,
                chosen=self.chosen,
                edges=self.edges,
                trials=tuple(trial for _, trials in self.trials.values() for trial in trials),
            ),
        )


def _path(variant: Variant, tune: Tune) -> str:
    path = path_of(variant.experiment.to_json(), tune.path)
    if path is None:
        raise MinigptError(
            f"--tune {tune.path}: no setting of {variant.name}, or more than one, has this name; give its path, such as "
            "training.optimizer.learning_rate"
        )
    return path


def _key(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


def updates_of(variant: Variant, share: float) -> int:
    """The number of updates of a trial."""
    return max(1, round(share * variant.experiment.training.max_iters))


def _pinned(base: Variant, trial: Variant, share: float) -> list[str]:
    """The settings that made a trial of the base comparable with the base as written: its size and its budget."""
    found = trial.experiment.training.max_iters
    updates = [] if found == updates_of(base, share) else [f"training.max_iters={max(1, round(found / share))}"]
    return [*trial.settings, *updates]
