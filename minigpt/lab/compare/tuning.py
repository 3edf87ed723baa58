"""Tune the settings of every variant with equal trials, before the runs that are judged.

Unequal tuning is the main source of false speed-ups (Wen et al. 2025, arXiv:2509.02046): a variant that is compared at a
learning rate that was chosen for the base, or chosen with fewer trials than the base's, is compared with its tuning.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from minigpt.errors import MinigptError
from minigpt.lab.compare.grid import Cell
from minigpt.lab.compare.plan import ComparisonPlan, make_plan
from minigpt.lab.compare.results import read_result
from minigpt.lab.compare.seeds import MOST_SEEDS
from minigpt.lab.compare.trials import Tuning
from minigpt.lab.compare.tuned import Trial, Values
from minigpt.lab.compare.tuner import Tuner, updates_of
from minigpt.lab.compare.variants import Source, Unit, Variant, check_comparable


def _refuse_fixed(paths: Collection[str], plan: ComparisonPlan) -> None:
    """Refuse to tune what the comparison determines. Raises MinigptError."""
    fixed = {"name": "names the variant", "seed": "is the same for all", "training.max_iters": "is the budget"}
    fixed |= dict.fromkeys(plan.settings.knobs if plan.settings.match else (), "is what --match changes")
    for path in sorted(fixed.keys() & paths):
        raise MinigptError(f"--tune {path} is not possible: it {fixed[path]}. Name another setting")


class Search:
    """The search for every variant's best values, in rounds of trials that are trained before the comparison.

        while (trials := search.next()) is not None:
            trials.grid.run(...)
        tuned = search.sources()

    A search that begins again finds the outcomes of all earlier trials, and makes the same choices from them.

    Args:
        plan: The comparison without tuning; its settings say how variants are tuned.
        tuning: How they are tuned.
        retry: Train crashed and diverged trials again.
        runs: Folders that are searched for finished trials.
    """

    def __init__(self, plan: ComparisonPlan, tuning: Tuning, *, retry: bool = False, runs: Sequence[Path] = (Path("runs"),)):
        self.plan, self.tuning, self.retry, self.runs = plan, tuning, retry, runs
        self.tuners = [Tuner.of(variant, tuning.tunes, plan.reading) for variant in plan.variants]
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
        first = max(base.experiment.seed + MOST_SEEDS, self.plan.grid.planned.last + 1)  # no verdict uses these
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
                noise=False,
                family=None,
                tuning=None,
            ),
            out=self.plan.folder,
            name="tuning" if share == 1 else f"tuning-{share:g}",
            reading=self.plan.reading,
            runs=self.runs,
            within=self.plan,
        )
        plan.grid.leave_out(plan.variants[0])
        if self.retry:
            plan.grid.forget_failures()
        return replace(plan, variants=plan.variants[1:], costs=plan.costs[1:])

    def _others(self, variant: Variant) -> list[str]:
        share = self.tuning.share
        return [f"training.max_iters={updates_of(variant, share)}"] if share < 1 else []

    def _read(self, wanted: Sequence[Sequence[Values]], trials: ComparisonPlan) -> None:
        """Record the outcomes of a round, and let each variant choose."""
        variants = iter(trials.variants)
        for tuner, each in zip(self.tuners, wanted, strict=True):
            for values, variant in zip(each, variants, strict=False):
                cells = [cell for cell in trials.grid.cells if cell.variant is variant]
                tuner.record(values, variant, [_trial(values, cell, trials.settings.unit) for cell in cells])
            tuner.advance()


def _trial(values: Values, cell: Cell, unit: Unit) -> Trial:
    result = read_result(cell, unit)
    return Trial(
        values=values,
        seed=result.seed,
        outcome=result.outcome,
        loss=result.loss if result.is_finished else None,
        message=result.message,
    )
