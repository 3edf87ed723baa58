"""Tune the settings of every variant with equal trials, before the runs that are judged.

Unequal tuning is the main source of false speed-ups (Wen et al. 2025, arXiv:2509.02046): a variant that is compared at a
learning rate that was chosen for the base, or chosen with fewer trials than the base's, is compared with its tuning.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from minigpt.errors import ExperimentError, MinigptError
from minigpt.lab.compare.plan import ComparisonPlan, make_plan
from minigpt.lab.compare.results import read_result
from minigpt.lab.compare.sources import made_names
from minigpt.lab.compare.trials import (
    MOST_SEEDS,
    Tune,
    Tuning,
    around,
    best_of,
    beyond,
    edge_of,
    is_number,
    mean_or_worst,
    path_of,
)
from minigpt.lab.compare.tuned import Edge, RecordedTuning, Trial, Values
from minigpt.lab.compare.variants import Source, Variant, check_comparable, read_variant, setting_at
from minigpt.reading import Reading

MOST_WIDENINGS = 3
"""How often a variant's grid of one setting is extended, each time by one value."""


@dataclass
class _Tuner:
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
    def of(cls, variant: Variant, tunes: Sequence[Tune], reading: Reading) -> _Tuner:
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


def _updates(variant: Variant, share: float) -> int:
    """The number of updates of a trial."""
    return max(1, round(share * variant.experiment.training.max_iters))


def _pinned(base: Variant, trial: Variant, share: float) -> list[str]:
    """The settings that made a trial of the base comparable with the base as written: its size and its budget."""
    found = trial.experiment.training.max_iters
    updates = [] if found == _updates(base, share) else [f"training.max_iters={max(1, round(found / share))}"]
    return [*trial.settings, *updates]


def _refuse_fixed(paths: Collection[str], plan: ComparisonPlan) -> None:
    """Refuse to tune what the comparison determines. Raises MinigptError."""
    fixed = {"name": "names the variant", "seed": "is the same for all", "training.max_iters": "is the budget"}
    fixed |= dict.fromkeys(plan.settings.knobs if plan.settings.match else (), "is what --match changes")
    for path in sorted(fixed.keys() & paths):
        raise MinigptError(f"--tune {path} is not possible: it {fixed[path]}. Name another setting")


class Search:
    """The search for every variant's best values, in rounds of trials that are trained by plans of their own.

        while (trials := search.next()) is not None:
            trials.grid.run(...)
        tuned = search.sources()

    A search that begins again finds the outcomes of all earlier trials, and makes the same choices from them.

    Args:
        plan: The comparison without tuning; its settings say how variants are tuned.
        tuning: How they are tuned.
        retry: Train crashed and diverged trials again.
    """

    def __init__(self, plan: ComparisonPlan, tuning: Tuning, *, retry: bool = False):
        self.plan, self.tuning, self.retry = plan, tuning, retry
        self.tuners = [_Tuner.of(variant, tuning.tunes, plan.reading) for variant in plan.variants]
        _refuse_fixed({path for tuner in self.tuners for path in tuner.axes}, plan)
        self.round: ComparisonPlan | None = None
        self.begun: set[str] = set()

    def next(self) -> ComparisonPlan | None:
        """The next trials to train; None if every variant is tuned.

        Raises:
            MinigptError: A trial cannot be compared with the base.
        """
        while True:
            wanted = [tuner.wanted() for tuner in self.tuners]
            if not any(wanted):
                return None
            if self.round is None:
                self.round = self._planned(wanted)
            missing = {cell.name for cell in self.round.grid.missing()} - self.begun
            if missing:  # a trial that still has no outcome after its training has failed
                self.begun |= missing
                return self.round
            self._read(wanted, self.round)
            self.round = None

    @property
    def later(self) -> int:
        """The number of trials that follow this round, without those that extend a grid."""
        seeds = self.tuning.seeds
        return sum(seeds * (len(tuner.axes[path]) - 1) for tuner in self.tuners for path in list(tuner.axes)[tuner.at + 1 :])

    def sources(self) -> list[Source]:
        """The variants' sources with the chosen values, the base first."""
        share = self.tuning.share
        return [tuner.tuned(share, is_base=index == 0) for index, tuner in enumerate(self.tuners)]

    def _planned(self, wanted: Sequence[Sequence[Values]]) -> ComparisonPlan:
        """The plan of trials. The base as written takes part as what their sizes and budgets are matched to."""
        share, settings = self.tuning.share, self.plan.settings
        base = self.plan.variants[0]
        first = base.experiment.seed + max(MOST_SEEDS, len(self.plan.grid.seeds))
        sources = [replace(base.source, settings=(*base.source.settings, *self._others(base)))]
        for tuner, trials in zip(self.tuners, wanted, strict=True):
            sources += [tuner.source(values, *tuner.variant.settings, *self._others(tuner.variant)) for values in trials]
        sources[0] = replace(sources[0], settings=(*sources[0].settings, f"seed={first}"))
        if share < 1:  # whole trainings are checked, because rounding changes the tokens of a part
            whole = [tuner.read(values) for tuner, trials in zip(self.tuners, wanted, strict=True) for values in trials]
            check_comparable([base, *whole], unit=settings.unit, budget=settings.budget)
        plan = make_plan(
            sources,
            replace(
                settings,
                seeds=self.tuning.seeds,
                budget=settings.budget or ("tokens" if share < 1 else None),
                tuning=None,
            ),
            out=self.plan.folder,
            name="tuning" if share == 1 else f"tuning-{share:g}",
            reading=self.plan.reading,
            within=self.plan,
        )
        plan.grid.leave_out(plan.variants[0])
        if self.retry:
            plan.grid.forget_failures()
        return replace(plan, variants=plan.variants[1:], costs=plan.costs[1:])

    def _others(self, variant: Variant) -> list[str]:
        share = self.tuning.share
        return [f"training.max_iters={_updates(variant, share)}"] if share < 1 else []

    def _read(self, wanted: Sequence[Sequence[Values]], trials: ComparisonPlan) -> None:
        """Record the outcomes of a round, and let each variant choose."""
        variants = iter(trials.variants)
        for tuner, each in zip(self.tuners, wanted, strict=True):
            for values in each:
                variant = next(variants)
                results = [read_result(cell, trials.settings.unit) for cell in trials.grid.cells if cell.variant is variant]
                tuner.trials[_key(values)] = (
                    variant,
                    [
                        Trial(
                            values=values,
                            seed=result.seed,
                            outcome=result.outcome,
                            loss=result.loss if result.is_finished else None,
                            message=result.message,
                        )
                        for result in results
                    ],
                )
            tuner.advance()
