"""The check before a run: plugins are checked before their experiment is trained."""

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
    """The results of the check before a run.

    Attributes:
        reports: One for each component, and one for the model if it was checked as a whole.
        options: The options of the check.
    """

    reports: tuple[TargetReport, ...]
    options: Options

    @property
    def broken(self) -> list[TargetReport]:
        """The reports with at least one broken property."""
        return [report for report in self.reports if report.failures]

    @property
    def message(self) -> str:
        """One line about the first broken property; empty if all properties hold."""
        if not self.broken:
            return ""
        report = self.broken[0]
        result = report.failures[0]
        assert result.failure is not None
        description = f"{report.target} breaks {result.property}: {result.failure.message}"
        return f"{description}; to see it: {again(report, result, self.options)}"

    @property
    def seconds(self) -> float:
        """Computing time of all reports."""
        return sum(report.seconds for report in self.reports)


def check_before_training(experiment: Experiment, label: str, changes: Sequence[str], *, in_full: bool) -> GateReport | None:
    """Check the plugins of an experiment, and its model; return None if there is nothing to check.

    Args:
        experiment: The experiment that will be trained.
        label: The path of its file.
        changes: Settings that override the file.
        in_full: Check every property, and the model even if all its parts are shipped. Otherwise only plugins get the
            quick part.
    """
    if not in_full and all(is_shipped(spec.cls) for spec in experiment.specs()):
        return None
    reading = Reading(tuple(changes))
    targets = plugin_targets(experiment, label, reading)
    if in_full and all(target.experiment is None for target in targets):
        targets.append(experiment_target(experiment, label, reading))
    options = Options(quick=not in_full, shrink=in_full)  # the command in the message searches for the smallest case
    return GateReport(tuple(options.check(target) for target in targets), options)


def again(report: TargetReport, result: Result, options: Options) -> str:
    """Return the command that reproduces a failure."""
    arguments = [report.target, "--only", result.property, *(["--seed", str(options.seed)] if options.seed else [])]
    arguments += [word for change in report.reading.overrides for word in ("--set", change)]
    arguments += [word for file in report.reading.plugin_files for word in ("--plugin", _as_typed(file))]
    return command_line("check", *arguments)


def _as_typed(file: Path) -> str:
    """Return the path relative to the working folder if the file is inside it."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
