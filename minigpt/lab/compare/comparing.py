"""A comparison from beginning to end: rehearse, plan, check, train what is missing, judge, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from minigpt.check.gate import GateReport, check_before_training
from minigpt.errors import CheckError
from minigpt.lab.compare.grid import Cell, Watcher
from minigpt.lab.compare.job import CellRecord
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.rehearsal import Rehearsed, rehearse
from minigpt.reading import Reading
from minigpt.run.status import Status
from minigpt.training.stopping import Stop, StopNow, stopped_by_signals


@dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Attributes:
        plan: What was compared, and how.
        comparison: What was found; None where it was only planned, or stopped.
        stop_signal: The signal that stopped it; None if none did.
    """

    plan: ComparisonPlan
    comparison: Comparison | None = None
    stop_signal: int | None = None

    @property
    def file(self) -> Path:
        """comparison.json, which has everything."""
        return self.plan.folder / "comparison.json"


class ComparisonWatcher(Watcher, Protocol):
    """Sees how a comparison proceeds."""

    def planned(self, plan: ComparisonPlan) -> None:
        """Nothing is trained yet."""

    def checked(self, report: GateReport) -> None:
        """A variant's plugins were checked before its training; those that fail end the comparison."""


def compare(
    sources: Sequence[Path],
    settings: Settings | None = None,
    *,
    out: Path = Path("comparisons"),
    name: str | None = None,
    overrides: Sequence[str] = (),
    plugin_files: Sequence[Path] = (),
    allow_plugins: bool = True,
    trust: bool = False,
    only_plan: bool = False,
    retry: bool = False,
    patience: float = 900.0,
    watcher: ComparisonWatcher | None = None,
) -> Compared:
    """Say whether variants are better than a base, from runs with the same seeds, data and budget.

        compared = compare([Path("base.json"), Path("variant.json")], Settings(seeds=5))
        print(compared.comparison.variants[1].verdict)

    Trains what is missing, each run in a process of its own, and uses finished runs that are the same in experiment, seed,
    data and code. One that was stopped continues when it is called again.

    Args:
        sources: Experiment files and folders of runs, the base first.
        settings: Seeds, budget, unit and the like.
        out: Where folders of comparisons are made.
        name: Of this one's; the base's name without it.
        overrides: As for `load_experiment`.
        plugin_files: Likewise.
        allow_plugins: Likewise.
        trust: Likewise.
        only_plan: Train nothing, and judge nothing.
        retry: Train again what crashed or diverged.
        patience: Seconds without a sign of progress after which a run is given up.
        watcher: Sees how it proceeds.

    Raises:
        MinigptError: They cannot be compared, or a plugin does not keep its contract.
    """
    settings, watcher, rehearsed = settings or Settings(), watcher or _Unwatched(), Rehearsed()
    reading = Reading(tuple(overrides), tuple(plugin_files), allow_plugins, trust)
    if allow_plugins:
        rehearsed = rehearse(sources, reading, device=settings.device, seconds=patience)
    plan = make_plan(
        sources,
        settings,
        out=out,
        name=name,
        reading=reading,
        failed=rehearsed.failed,
    )
    if retry:
        _forget_failures(plan)
    watcher.planned(plan)
    if not only_plan:
        _check(plan, rehearsed.tried, overrides, watcher)
    return Compared(plan) if only_plan else _carry_out(plan, watcher, allow_plugins, patience)


def _forget_failures(plan: ComparisonPlan) -> None:
    for cell in plan.grid.cells:
        record = cell.outcome()
        if record is not None and record.outcome is not Status.FINISHED:
            cell.record.unlink()


def _check(plan: ComparisonPlan, tried: Sequence[Path], overrides: Sequence[str], watcher: ComparisonWatcher) -> None:
    """Check the plugins of what is to be trained, where the rehearsal did not.

    Raises:
        CheckError: One does not keep its contract.
    """
    sources = {str(source) for source in tried}
    missing = {cell.variant.name for cell in plan.grid.missing()}
    for variant in plan.variants:
        if variant.source in sources or variant.name not in missing:
            continue
        report = check_before_training(variant.experiment, variant.source, overrides, in_full=False)
        if report is not None:
            watcher.checked(report)
            if report.broken:
                raise CheckError(report.message)


def _carry_out(plan: ComparisonPlan, watcher: ComparisonWatcher, allow_plugins: bool, patience: float) -> Compared:
    """Train what is missing, judge and write; a signal stops the training, and what was trained is saved."""
    stop, settings = Stop(), plan.settings
    try:
        with stopped_by_signals(stop), stop.breakable():
            plan.grid.run(
                watcher,
                jobs=settings.jobs,
                device=settings.device,
                threads=plan.threads,
                allow_plugins=allow_plugins,
                patience=patience,
            )
    except StopNow:
        return Compared(plan, stop_signal=stop.signal or 0)
    comparison = plan.judge()
    plan.write(comparison)
    return Compared(plan, comparison)


class _Unwatched:
    """Nobody watches."""

    def planned(self, plan: ComparisonPlan) -> None: ...
    def checked(self, report: GateReport) -> None: ...
    def started(self, cell: Cell) -> None: ...
    def progressed(self, cell: Cell, step: int) -> None: ...
    def ended(self, cell: Cell, record: CellRecord | None) -> None: ...
