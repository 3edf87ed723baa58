"""The check before a run: what is not shipped of an experiment is tried before its loss is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.check.parallel import Options
from minigpt.check.property import Result
from minigpt.check.suite import TargetReport
from minigpt.check.targets import experiment_target, plugin_targets
from minigpt.errors import command_line
from minigpt.experiment import Experiment
from minigpt.reading import Reading
from minigpt.registry.spec import is_shipped


@dataclass(frozen=True)
class GateReport:
    """What was tried before a run.

    Attributes:
        reports: One a component, and one of the model where it was tried as a whole.
        options: How they were tried.
    """

    reports: tuple[TargetReport, ...]
    options: Options

    @property
    def broken(self) -> list[TargetReport]:
        """Those with a property that does not hold."""
        return [report for report in self.reports if report.failures]

    @property
    def message(self) -> str:
        """The first property that does not hold, in a line; empty where all hold."""
        if not self.broken:
            return ""
        report = self.broken[0]
        result = report.failures[0]
        assert result.failure is not None
        words = f"{report.target} breaks {result.property}: {result.failure.message}"
        return f"{words}; to see it: {again(report, result, self.options)}"

    @property
    def seconds(self) -> float:
        """Of computing."""
        return sum(report.seconds for report in self.reports)


def check_before_training(experiment: Experiment, label: str, changes: Sequence[str], *, in_full: bool) -> GateReport | None:
    """Check what is not shipped of an experiment, and its model. None where there is nothing to check.

    Args:
        experiment: What is about to be trained.
        label: Its file.
        changes: What it has otherwise than the file says.
        in_full: Every property, and the model even if all its parts are shipped; else the quick part, for plugins only.
    """
    if not in_full and all(is_shipped(spec.cls) for spec in experiment.specs()):
        return None
    reading = Reading(tuple(changes))
    targets = plugin_targets(experiment, label, reading)
    if in_full and all(target.experiment is None for target in targets):
        targets.append(experiment_target(experiment, label, reading))
    options = Options(quick=not in_full)
    return GateReport(tuple(options.check(target) for target in targets), options)


def again(report: TargetReport, result: Result, options: Options) -> str:
    """The command that shows a failure again."""
    words = [report.target, "--only", result.property, *(["--seed", str(options.seed)] if options.seed else [])]
    words += [word for change in report.reading.overrides for word in ("--set", change)]
    words += [word for file in report.reading.plugin_files for word in ("--plugin", _from_here(file))]
    return command_line("check", *words)


def _from_here(file: Path) -> str:
    """From here where it is below, as people type it."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
