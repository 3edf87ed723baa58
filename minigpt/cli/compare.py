"""`minigpt compare`."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minigpt.cli.check import pass_gate
from minigpt.cli.comparison_options import (
    Budget,
    Changes,
    CsvFile,
    Data,
    Delta,
    Device,
    Epochs,
    Gate,
    Grids,
    Jobs,
    JsonFile,
    Knobs,
    MarkdownFile,
    Match,
    Name,
    NoNoise,
    OnlyPlan,
    Out,
    Patience,
    Retry,
    Seeds,
    Sources,
    TuneBudget,
    Tunes,
    TuneSeeds,
    Unit,
    checked_words,
    seed_number,
)
from minigpt.cli.options import NoPlugins, PluginFile, Trust, reading_of
from minigpt.cli.terminal import warn
from minigpt.errors import MinigptError, count
from minigpt.system.files import write_output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table as RichTable

    from minigpt.check.gate import GateReport
    from minigpt.lab.compare import Compared, Source
    from minigpt.lab.compare.grid import Cell
    from minigpt.lab.compare.job import CellRecord
    from minigpt.lab.compare.plan import ComparisonPlan
    from minigpt.lab.compare.record import Comparison
    from minigpt.lab.compare.tables import Table
    from minigpt.lab.corpora.comparing import CompareOne


def compare(
    sources: Sources,
    seeds: Seeds = None,
    no_noise: NoNoise = False,
    budget: Budget = None,
    match: Match = None,
    knob: Knobs = None,
    unit: Unit = "nats",
    delta: Delta = 0.01,
    changes: Changes = None,
    grid: Grids = None,
    tune: Tunes = None,
    tune_seeds: TuneSeeds = None,
    tune_budget: TuneBudget = None,
    data: Data = None,
    epochs: Epochs = None,
    name: Name = None,
    out: Out = Path("comparisons"),
    jobs: Jobs = 1,
    device: Device = "auto",
    plan_only: OnlyPlan = False,
    retry: Retry = False,
    json_file: JsonFile = None,
    csv_file: CsvFile = None,
    markdown: MarkdownFile = None,
    patience: Patience = 15.0,
    gate: Gate = False,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Train variants and report whether they are better than a base.

    All have the same seeds, data and budget. Only missing runs are trained, each in its own process. Finished runs with the
    same experiment, seed, data and code are reused. To continue a comparison that was stopped, repeat the same command.
    """
    words = checked_words(budget, match, unit, [json_file, csv_file, markdown], knob)

    from minigpt.cli.drawing import terminal
    from minigpt.lab import compare as lab

    words |= {"noise": not no_noise, "tuning": lab.Tuning.parse(tune or (), tune_seeds, tune_budget)}
    settings = lab.Settings(seed_number(seeds), delta=delta, device=device, jobs=jobs, **words)
    named, overrides = lab.sources_from(sources, changes or (), grid or ())
    if gate:
        _check_gate(named, plan_only or data is not None or epochs is not None)
    reading = reading_of(list(overrides), plugin, no_plugins, trust)
    with Watching(terminal()) as watcher:
        one = _one(named, out, retry, patience, watcher)
        if data is not None or epochs is not None:
            from minigpt.cli.corpora import compare_on_corpora

            files = (json_file, csv_file, markdown)
            compare_on_corpora(named, settings, one, (data, epochs), out, name, reading, plan_only, watcher.console, files)
            return
        compared = one(settings, out=out, name=name, reading=reading, only_plan=plan_only)
    if not plan_only:
        _report(compared, watcher.console, json_file, csv_file, markdown)
        _pass(compared, gate)


def _one(sources: Sequence[Source], out: Path, retry: bool, patience: float, watcher: Watching) -> CompareOne:
    """Makes one comparison of these sources; what is left to say are its settings, folder, and how they are read."""
    from minigpt.lab.compare import compare as compare_one
    from minigpt.lab.ledger import FILE

    return functools.partial(
        compare_one,
        sources,
        retry=retry,
        patience=60 * patience,
        watcher=watcher,
        ledger=out / FILE,
    )


def _report(
    compared: Compared, console: Console, json_file: Path | None, csv_file: Path | None, markdown: Path | None
) -> None:
    """Print and write the results. If a signal stopped the comparison, exit with that signal's code."""
    exit_if_stopped(compared.stop_signal)

    from minigpt.lab.compare.tables import csv_text, markdown_text

    assert compared.comparison is not None
    print_results(compared.comparison, console)
    if json_file is not None:
        write_output(json_file, compared.file.read_bytes())
    if csv_file is not None:
        write_output(csv_file, csv_text(compared.comparison).encode("utf-8"))
    if markdown is not None:
        write_output(markdown, markdown_text(compared.comparison).encode("utf-8"))
    console.print(f"\nsaved in {compared.plan.folder}")


def exit_if_stopped(stop_signal: int | None) -> None:
    """Exit with a signal's code if it stopped the comparison."""
    if stop_signal is not None:
        warn("stopped, unfinished runs are saved; continue with the same command")
        raise typer.Exit(128 + stop_signal)


def print_results(comparison: Comparison, console: Console) -> None:
    """Print the tables of a comparison, the notes to them, and what it found and did not show."""
    from minigpt.lab.compare.conclusion import conclusion
    from minigpt.lab.compare.tables import cost_table, notes, verdict_table

    for table in (verdict_table(comparison), cost_table(comparison)):
        console.print(rich_table(table))
    for note in notes(comparison):
        console.print(note, style="dim", soft_wrap=True)
    for sentence in conclusion(comparison):
        console.print(sentence, soft_wrap=True)


def _print_plan(plan: ComparisonPlan, console: Console, *, is_judged: bool = True) -> list[Cell]:
    """Print the existing runs, the missing runs and how long those will take. Returns the missing cells."""
    from rich.text import Text

    from minigpt.lab.compare.outlook import outlook, runs_in_words

    missing, to_train = plan.grid.missing(), plan.grid.missing_runs()
    console.print(Text(plan.folder.name, "bold").append(f": {runs_in_words(plan, to_train)}", "not bold"), soft_wrap=True)
    for failed in plan.failed:
        console.print(f"{failed.name}: {failed.message}; the others continue", style="red", soft_wrap=True)
    for variant in plan.variants:
        for note in variant.adjusted:
            console.print(f"{variant.name}: {note}", style="yellow", soft_wrap=True)
    for note in plan.grid.corpora.notes():
        console.print(note, style="yellow", soft_wrap=True)
    if len(missing) > len(to_train):
        measured = count(len(missing) - len(to_train), "finished run")
        console.print(f"{measured} still to be measured (loss by position and by block of text)", style="dim")
    for line in outlook(plan, to_train, is_judged=is_judged):
        console.print(line, style="dim", soft_wrap=True)
    return missing


class Watching:
    """Progress bars for the whole grid and for each current run; plain lines without a terminal."""

    def __init__(self, console: Console):
        from rich.progress import BarColumn, Progress, TimeElapsedColumn

        from minigpt.cli.drawing import column

        self.console = console
        self.updates: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.tasks: dict[str, Any] = {}
        columns = (
            column("{task.description}"),
            BarColumn(bar_width=24),
            column("{task.fields[figures]}"),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self.whole: TaskID | None = None
        self.folders: set[Path] = set()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def tuning(self, trials: ComparisonPlan, later: int, plan: ComparisonPlan) -> None:
        """Print the plan of the first trials, and what follows, once."""
        is_new = trials.folder not in self.folders
        self.planned(trials, is_judged=False)
        if not is_new:
            return
        from minigpt.lab.compare.outlook import time_of

        others = f"{count(later, 'trial')} of further settings, then " if later else ""
        runs = f"{count(len(plan.grid.cells) + len(plan.grid.again), 'run')} with each variant's own best values"
        self.console.print(f"after them: {others}{runs}{time_of(plan)}", style="dim", soft_wrap=True)

    def planned(self, plan: ComparisonPlan, *, is_judged: bool = True) -> None:
        """Print the plan, once. From now on, output that cannot be written does not end the process."""
        from minigpt.cli.outliving import outlive_the_terminal

        if self.whole is not None:  # of the comparison before this one
            self.bars.remove_task(self.whole)
            self.whole, self.updates, self.steps = None, {}, {}
        is_new = plan.folder not in self.folders
        self.expect(_print_plan(plan, self.console, is_judged=is_judged) if is_new else plan.grid.missing())
        self.folders.add(plan.folder)
        outlive_the_terminal()

    def expect(self, missing: Sequence[Cell]) -> None:
        """Add the cells that will be trained or measured."""
        for cell in missing:  # 0 for cells that are only measured
            self.updates[cell.name] = 0 if cell.needs_only_measuring() else cell.variant.experiment.training.max_iters
            self.steps[cell.name] = 0
        if self.whole is not None:
            self.bars.update(self.whole, total=sum(self.updates.values()))

    def extended(self, undecided: Sequence[str], added: Sequence[Cell]) -> None:
        """Print which variants have no verdict yet, and expect the added cells."""
        names = ", ".join(undecided)
        self.console.print(f"no verdict yet on {names}: seed {added[0].seed} is added", style="dim", soft_wrap=True)
        self.expect([cell for cell in added if cell.outcome() is None])

    def checked(self, report: GateReport) -> None:
        """Print the report. End the command if a property is broken."""
        pass_gate(report)

    def started(self, cell: Cell) -> None:
        """Add a bar for the cell; with the first cell also the bar of the grid."""
        if self.whole is None:
            self.began = time.monotonic()
            self.whole = self.bars.add_task("total", total=sum(self.updates.values()), figures="")
            self.bars.start()
        self.tasks[cell.name] = self.bars.add_task(cell.name, total=self.updates[cell.name] or None, figures="starting")
        if not self.console.is_terminal:
            self.console.print(f"{cell.name}: started")

    def progressed(self, cell: Cell, step: int) -> None:
        """Update the bars of the cell and of the grid."""
        from minigpt.numbers import duration

        assert self.whole is not None
        self.steps[cell.name] = step
        self.bars.update(self.tasks[cell.name], completed=step, figures=f"update {step:,}")
        done, passed = sum(self.steps.values()), time.monotonic() - self.began
        left = passed / done * (sum(self.updates.values()) - done) if done else 0
        self.bars.update(self.whole, completed=done, figures=f"about {duration(left)} left" if done else "")

    def ended(self, cell: Cell, record: CellRecord | None) -> None:
        """Replace the cell's bar by a line with its outcome."""
        from minigpt.run.status import Status

        self.steps[cell.name] = self.updates[cell.name]
        self.bars.remove_task(self.tasks.pop(cell.name))
        outcome = Status.STOPPED if record is None else record.outcome
        reason = f": {record.message}" if record is not None and record.message else ""
        style = "" if outcome is Status.FINISHED else "red"
        self.console.print(f"{cell.name}: {outcome}{reason}", style=style, soft_wrap=True)


def _check_gate(sources: Sequence[Source], is_other: bool) -> None:
    """Refuse a gate without the verdicts of one comparison."""
    if is_other:
        raise MinigptError("--gate needs the verdicts of one comparison: leave out --plan, --data and --epochs")
    if len(sources) < 2:
        raise MinigptError("--gate needs at least one variant: minigpt compare BASE VARIANT... --gate")


def _pass(compared: Compared, gate: bool) -> None:
    """Exit with 1 if the gate is asked for and not passed."""
    from minigpt.lab.compare import PASSED

    if gate and compared.comparison is not None and compared.comparison.gate != PASSED:
        warn(f"--gate is not passed: {compared.comparison.gate}")
        raise typer.Exit(1)


def rich_table(table: Table) -> RichTable:
    """A table of results as the terminal shows it."""
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(table.columns):
        is_words = index == 0 or column == "verdict"
        drawn.add_column(column, justify="left" if is_words else "right", overflow="fold")
    for row in table.rows:
        verdict = row[-1] if table.columns[-1] == "verdict" else ""
        style = {"better": "green", "worse": "red"}.get(verdict, "")
        drawn.add_row(*row, style=style)
    return drawn
