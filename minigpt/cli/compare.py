"""`minigpt compare`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minigpt.cli.check import pass_gate
from minigpt.cli.comparison_options import (
    Budget,
    CsvFile,
    Delta,
    Device,
    Jobs,
    JsonFile,
    Knobs,
    MarkdownFile,
    Match,
    Name,
    OnlyPlan,
    Out,
    Patience,
    Retry,
    Seeds,
    Sources,
    Unit,
    checked_words,
)
from minigpt.cli.options import NoPlugins, PluginFile, Set, Trust
from minigpt.cli.terminal import warn
from minigpt.errors import MinigptError, count
from minigpt.system.files import write_output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table as RichTable

    from minigpt.check.gate import GateReport
    from minigpt.lab.compare import Compared
    from minigpt.lab.compare.grid import Cell
    from minigpt.lab.compare.job import CellRecord
    from minigpt.lab.compare.plan import ComparisonPlan
    from minigpt.lab.compare.tables import Table


def compare(
    sources: Sources,
    seeds: Seeds = None,
    budget: Budget = None,
    match: Match = None,
    knob: Knobs = None,
    unit: Unit = "nats",
    delta: Delta = 0.01,
    changes: Set = None,
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
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Train variants and report whether they are better than a base.

    All have the same seeds, data and budget. Only missing runs are trained, each in its own process. Finished runs with the
    same experiment, seed, data and code are reused. To continue a comparison that was stopped, repeat the same command.
    """
    words = checked_words(budget, match, unit, [json_file, csv_file, markdown])
    if knob and match is None:
        raise MinigptError(f"--knob {knob[0]} names what --match changes: add --match params, flops or state")

    from minigpt.cli.drawing import terminal
    from minigpt.lab import compare as lab

    knobs = tuple(knob or ["model.ffn.expansion"])
    with Watching(terminal()) as watcher:
        compared = lab.compare(
            sources,
            lab.Settings(seeds=seeds, knobs=knobs, delta=delta, device=device, jobs=jobs, **words),
            out=out,
            name=name,
            overrides=changes or (),
            plugin_files=plugin or (),
            allow_plugins=not no_plugins,
            trust=trust,
            only_plan=plan_only,
            retry=retry,
            patience=60 * patience,
            watcher=watcher,
        )
    if not plan_only:
        _report(compared, watcher.console, json_file, csv_file, markdown)


def _report(
    compared: Compared, console: Console, json_file: Path | None, csv_file: Path | None, markdown: Path | None
) -> None:
    """Print and write the results. If a signal stopped the comparison, exit with that signal's code."""
    if compared.stop_signal is not None:
        warn("stopped, unfinished runs are saved; continue with the same command")
        raise typer.Exit(128 + compared.stop_signal)

    from minigpt.lab.compare.tables import cost_table, csv_text, markdown_text, notes, verdict_table

    assert compared.comparison is not None
    for table in (verdict_table(compared.comparison), cost_table(compared.comparison)):
        console.print(rich_table(table))
    for note in notes(compared.comparison):
        console.print(note, style="dim", soft_wrap=True)
    if json_file is not None:
        write_output(json_file, compared.file.read_bytes())
    if csv_file is not None:
        write_output(csv_file, csv_text(compared.comparison).encode("utf-8"))
    if markdown is not None:
        write_output(markdown, markdown_text(compared.comparison).encode("utf-8"))
    console.print(f"\nsaved in {compared.plan.folder}")


def _print_plan(plan: ComparisonPlan, console: Console) -> list[Cell]:
    """Print the existing runs, the missing runs and how long those will take. Returns the missing cells."""
    from rich.text import Text

    from minigpt.numbers import duration

    missing, to_train = plan.grid.missing(), plan.grid.missing_runs()
    seeds = plan.grid.seeds
    numbers = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    existing = len(plan.grid.cells) - len(to_train)
    runs = f"seeds {numbers}: {count(len(plan.grid.cells), 'run')}, {existing} exist already"
    console.print(Text(plan.folder.name, "bold").append(f": {count(len(plan.variants), 'variant')}, {runs}", "not bold"))
    for failed in plan.failed:
        console.print(f"{failed.name}: {failed.message}; the others continue", style="red", soft_wrap=True)
    for variant in plan.variants:
        for note in variant.adjusted:
            console.print(f"{variant.name}: {note}", style="yellow", soft_wrap=True)
    for note in plan.grid.corpora.notes():
        console.print(note, style="yellow", soft_wrap=True)
    if len(missing) > len(to_train):
        measured = count(len(missing) - len(to_train), "finished run")
        console.print(f"{measured} still to be measured (loss by position)", style="dim")
    if to_train:
        jobs = plan.settings.jobs
        at_once = f", {jobs} at a time" if jobs > 1 else ""
        seconds, low, high = plan.seconds()
        likely = f"about {duration(seconds)} ({duration(low)} to {duration(high)})"
        console.print(f"{count(len(to_train), 'run')} to train{at_once}: {likely}", style="dim")
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

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def planned(self, plan: ComparisonPlan) -> None:
        """Print the plan. From now on, output that cannot be written does not end the process."""
        from minigpt.cli.outliving import outlive_the_terminal

        self.expect(_print_plan(plan, self.console))
        outlive_the_terminal()

    def expect(self, missing: Sequence[Cell]) -> None:
        """Set the cells that will be trained or measured."""
        self.updates = {  # 0 for cells that are only measured
            cell.name: 0 if cell.needs_only_measuring() else cell.variant.experiment.training.max_iters for cell in missing
        }
        self.steps = dict.fromkeys(self.updates, 0)

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
