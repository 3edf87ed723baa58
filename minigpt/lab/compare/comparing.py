"""Run a comparison: rehearse, plan, check, tune, train the missing runs, judge, and write the result."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from minigpt.check.gate import GateReport, check_before_training
from minigpt.errors import CheckError
from minigpt.lab.compare.grid import Cell, Watcher
from minigpt.lab.compare.job import CellRecord
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.lab.compare.questions import entered
from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.rehearsal import Rehearsed, rehearse
from minigpt.lab.compare.tuning import Search
from minigpt.lab.compare.variants import Source
from minigpt.lab.ledger import FILE, Ledger
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.training.stopping import Stop, StopNow, stopped_by_signals


@dataclass(frozen=True)
class Compared:
    """The outcome of a call of `compare`.

    Attributes:
        plan: What is compared, and how.
        comparison: The results; None if the comparison was only planned, or was stopped.
        stop_signal: The signal that stopped it; None if none did.
    """

    plan: ComparisonPlan
    comparison: Comparison | None = None
    stop_signal: int | None = None

    @property
    def file(self) -> Path:
        """The path of comparison.json, which contains all results."""
        return self.plan.folder / "comparison.json"


class ComparisonWatcher(Watcher, Protocol):
    """Is notified as a comparison proceeds."""

    def tuning(self, trials: ComparisonPlan, later: int, plan: ComparisonPlan) -> None:
        """A round of trials is planned.

        Args:
            trials: The plan of this round.
            later: The number of trials that follow it at least.
            plan: The comparison that follows, without tuned settings.
        """

    def planned(self, plan: ComparisonPlan) -> None:
        """The plan is made; nothing is trained yet."""

    def checked(self, report: GateReport) -> None:
        """A variant's plugins were checked before its training; a failure ends the comparison."""

    def extended(self, undecided: Sequence[str], added: Sequence[Cell]) -> None:
        """These variants have no verdict yet, so the cells of one more seed were added."""


def compare(
    sources: Sequence[Path | Source],
    settings: Settings | None = None,
    *,
    out: Path = Path("comparisons"),
    name: str | None = None,
    reading: Reading = AS_WRITTEN,
    only_plan: bool = False,
    retry: bool = False,
    patience: float = 900.0,
    watcher: ComparisonWatcher | None = None,
    runs: Sequence[Path] = (Path("runs"),),
    ledger: Path | None = None,
) -> Compared:
    """Find out whether variants are better than a base, from runs with the same seeds, data and budget.

        compared = compare([Path("base.json"), Path("variant.json")], Settings(seeds=5))
        print(compared.comparison.variants[1].verdict)

    Finished runs with the same identity are used; missing ones are trained, each in its own process. A stopped comparison
    continues when `compare` is called again. A base without variants is compared with itself, with further seeds.

    Args:
        sources: Experiment files, folders of runs, and these with settings; the base first.
        settings: Seeds, budget, unit and more.
        out: The folder in which comparisons get their folders.
        name: The name of this comparison's folder; by default the base's name.
        reading: How the sources are read.
        only_plan: Stop after the plan: train and judge nothing.
        retry: Train crashed and diverged runs again.
        patience: A run without progress for this many seconds is killed.
        watcher: Is notified as the comparison proceeds.
        runs: Folders that are searched for finished runs.
        ledger: The file to which the verdicts are added; by default `ledger.jsonl` in `out`.

    Raises:
        MinigptError: The sources cannot be compared, or a plugin violates its contract.
    """
    settings, watcher, ledger = settings or Settings(), watcher or _Unwatched(), ledger or out / FILE
    Ledger.read(ledger)  # a damaged one is reported before hours of training
    tried = rehearse(sources, reading, device=settings.device, seconds=patience) if reading.allow_plugins else Rehearsed()
    planned = functools.partial(make_plan, settings=settings, out=out, name=name, reading=reading, runs=runs)
    plan, retry = planned(sources, failed=tried.failed), retry and not only_plan
    if settings.tuning is not None:
        search = Search(plan, settings.tuning, retry=retry, runs=runs)
        if not only_plan:
            _check(plan, tried.tried, reading.overrides, watcher)
        if (unfinished := _tune(search, watcher, reading.allow_plugins, patience, only_plan=only_plan)) is not None:
            return unfinished
        plan = planned(search.sources(), failed=plan.failed, within=plan)
    if retry:
        plan.grid.forget_failures()
    watcher.planned(plan)
    if only_plan:
        return Compared(plan)
    if settings.tuning is None:
        _check(plan, tried.tried, reading.overrides, watcher)
    return _carry_out(plan, watcher, reading.allow_plugins, patience, ledger)


def _check(plan: ComparisonPlan, tried: Sequence[Source], overrides: Sequence[str], watcher: ComparisonWatcher) -> None:
    """Check the plugins of the missing runs' variants, unless the rehearsal has checked them.

    Raises:
        CheckError: A plugin violates its contract.
    """
    missing = {cell.variant.name for cell in plan.grid.missing(further=True)}
    for variant in plan.variants:
        if variant.source in tried or variant.name not in missing:
            continue
        changes = (*overrides, *variant.source.settings)
        report = check_before_training(variant.experiment, str(variant.source.path), changes, in_full=False)
        if report is not None:
            watcher.checked(report)
            if report.broken:
                raise CheckError(report.message)


def _tune(
    search: Search, watcher: ComparisonWatcher, allow_plugins: bool, patience: float, *, only_plan: bool
) -> Compared | None:
    """Train the trials of tuning, in rounds; None if all variants are tuned."""
    while (trials := search.next()) is not None:
        watcher.tuning(trials, search.later, search.plan)
        stop_signal = None if only_plan else _train(trials, watcher, allow_plugins, patience)
        if only_plan or stop_signal is not None:
            return Compared(search.plan, stop_signal=stop_signal)
    return None


def _carry_out(
    plan: ComparisonPlan, watcher: ComparisonWatcher, allow_plugins: bool, patience: float, ledger: Path
) -> Compared:
    """Train the missing runs, judge, enter the verdicts into the ledger, and write."""
    stop_signal = _train(plan, watcher, allow_plugins, patience)
    if stop_signal is not None:
        return Compared(plan, stop_signal=stop_signal)
    comparison = entered(plan, plan.judge(), ledger)
    plan.write(comparison)
    return Compared(plan, comparison)


def _train(plan: ComparisonPlan, watcher: ComparisonWatcher, allow_plugins: bool, patience: float) -> int | None:
    """Train the missing runs, and further seeds while they are asked for and a variant has no verdict.

    A seed is added only when all runs with the seeds before it have ended. So the same runs lead to the same decisions,
    whatever their order in time and however often the comparison was stopped. A signal stops the training after saving it,
    and is returned.
    """
    stop, settings = Stop(), plan.settings
    try:
        with stopped_by_signals(stop), stop.breakable():
            while True:
                plan.grid.run(
                    watcher,
                    jobs=settings.jobs,
                    device=settings.device,
                    threads=plan.threads,
                    allow_plugins=allow_plugins,
                    patience=patience,
                )
                undecided = plan.undecided(plan.judge()) if plan.grid.further else []
                added = plan.grid.extend(undecided)
                if not added:
                    return None
                watcher.extended(undecided, added)
    except StopNow:
        return stop.signal or 0


class _Unwatched:
    """A watcher that does nothing."""

    def tuning(self, trials: ComparisonPlan, later: int, plan: ComparisonPlan) -> None: ...
    def planned(self, plan: ComparisonPlan) -> None: ...
    def checked(self, report: GateReport) -> None: ...
    def extended(self, undecided: Sequence[str], added: Sequence[Cell]) -> None: ...
    def started(self, cell: Cell) -> None: ...
    def progressed(self, cell: Cell, step: int) -> None: ...
    def ended(self, cell: Cell, record: CellRecord | None) -> None: ...
