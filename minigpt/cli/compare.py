"""`minigpt compare`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from minigpt.cli.check import pass_gate
from minigpt.cli.options import NoPlugins, PluginFile, Trust
from minigpt.cli.terminal import warn
from minigpt.errors import MinigptError, count, listing, nearest
from minigpt.system.files import check_output, write_output

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

_Budget = Literal["tokens", "flops", "time", "steps"]
_Size = Literal["params", "flops", "state"]
_Unit = Literal["nats", "bits-per-byte"]

Sources = Annotated[
    list[Path], typer.Argument(metavar="BASE VARIANT...", help="Experiment files or run folders. The first is the base.")
]
Seeds = Annotated[
    int | None,
    typer.Option(
        min=1, max=10_000, help="Number of seeds, with one run of each variant per seed. Default: 3, or those of given runs."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(metavar="WHAT", help="Give each variant the base's budget of tokens, flops, time or steps."),
]
Match = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Resize each variant to the base's params, flops or state, within 1 %."),
]
Knobs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH", help="Setting that --match changes. Repeatable, used in this order. Default: model.ffn.expansion."
    ),
]
Unit = Annotated[str, typer.Option(help="Unit of losses: nats (per token), or bits-per-byte to compare tokenizers.")]
Delta = Annotated[float, typer.Option(min=1e-9, max=100, help="Smallest difference that matters to you.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="[VARIANT:]PATH=VALUE", help="Change a setting of all, or of one variant. Repeatable."),
]
Grids = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[VARIANT:]PATH=V1,V2",
        help="Make a variant of each file, or of one, for each value of a setting. Repeatable, for all combinations.",
    ),
]
Tunes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH[=V1,V2]",
        help="First choose each variant's best value of a setting, such as learning_rate, with equal trials: five around "
        "its own value, or these. Repeatable, one setting after another.",
    ),
]
TuneSeeds = Annotated[int | None, typer.Option(help="Seeds of each trial of --tune; no verdict uses them. Default: 1.")]
TuneBudget = Annotated[
    float | None, typer.Option(metavar="PART", help="Part of the updates that each trial of --tune has. Default: 1.")
]
Name = Annotated[str | None, typer.Option(help="Name of the comparison's folder. Default: the base's name.")]
Out = Annotated[Path, typer.Option(help="Folder in which comparison folders are created.")]
Jobs = Annotated[int, typer.Option(min=1, max=1024, help="Number of runs at the same time. They share the cores.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")]
OnlyPlan = Annotated[bool, typer.Option("--plan", help="Only print what would be trained and how long it would take.")]
Retry = Annotated[bool, typer.Option("--retry", help="Train crashed and diverged runs again.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all results to this JSON file.")]
CsvFile = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write one row per run to this CSV file.")]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Also write the tables to this Markdown file.")
]
Patience = Annotated[float, typer.Option(min=0.01, max=1e5, help="Minutes without progress after which a run is killed.")]


def compare(
    sources: Sources,
    seeds: Seeds = None,
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
    words = _checked(budget, match, unit, [json_file, csv_file, markdown])
    if knob and match is None:
        raise MinigptError(f"--knob {knob[0]} names what --match changes: add --match params, flops or state")

    from minigpt.cli.drawing import terminal
    from minigpt.lab import compare as lab

    knobs, tuning = tuple(knob or ["model.ffn.expansion"]), lab.Tuning.parse(tune or (), tune_seeds, tune_budget)
    named, overrides = lab.sources_from(sources, changes or (), grid or ())
    with _Watching(terminal()) as watcher:
        compared = lab.compare(
            named,
            lab.Settings(seeds=seeds, knobs=knobs, delta=delta, device=device, jobs=jobs, tuning=tuning, **words),
            out=out,
            name=name,
            overrides=overrides,
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


def _checked(budget: str | None, match: str | None, unit: str, files: list[Path | None]) -> dict[str, Any]:
    """The options that allow only a few words, by the names of their settings.

    Raises:
        MinigptError: A word is not allowed, or an output file cannot be written.
    """
    _one_of("--budget", budget, get_args(_Budget))
    _one_of("--match", match, get_args(_Size))
    _one_of("--unit", unit, get_args(_Unit))
    for file in files:
        if file is not None:
            check_output(file)
    return {"budget": budget, "match": match, "unit": unit}


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
        console.print(_rich(table))
    for note in notes(compared.comparison):
        console.print(note, style="dim", soft_wrap=True)
    if json_file is not None:
        write_output(json_file, compared.file.read_bytes())
    if csv_file is not None:
        write_output(csv_file, csv_text(compared.comparison).encode("utf-8"))
    if markdown is not None:
        write_output(markdown, markdown_text(compared.comparison).encode("utf-8"))
    console.print(f"\nsaved in {compared.plan.folder}")


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise MinigptError(f'{option}: found "{value}"; allowed: {listing(allowed)}{nearest(value, allowed)}')


def _print_plan(plan: ComparisonPlan, console: Console) -> list[Cell]:
    """Print the existing runs, the missing runs and how long those will take. Returns the missing cells."""
    from rich.text import Text

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
        console.print(f"{count(len(to_train), 'run')} to train{at_once}{_likely(plan)}", style="dim")
    return missing


def _likely(plan: ComparisonPlan) -> str:
    """How long the missing runs of a plan will take, in words; empty if none is missing."""
    from minigpt.numbers import duration

    seconds, low, high = plan.seconds()
    return f": about {duration(seconds)} ({duration(low)} to {duration(high)})" if high else ""


class _Watching:
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

    def __enter__(self) -> _Watching:
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def tuning(self, trials: ComparisonPlan, later: int, plan: ComparisonPlan) -> None:
        """Print the plan of the trials, and what follows."""
        self.planned(trials)
        others = f"{count(later, 'trial')} of further settings, then " if later else ""
        runs = f"{count(len(plan.grid.cells), 'run')} with each variant's own best values"
        self.console.print(f"after them: {others}{runs}{_likely(plan)}", style="dim", soft_wrap=True)

    def planned(self, plan: ComparisonPlan) -> None:
        """Print the plan. From now on, output that cannot be written does not end the process."""
        from minigpt.cli.outliving import outlive_the_terminal

        self.expect(_print_plan(plan, self.console))
        if self.whole is not None:  # the bar of the trials
            self.bars.remove_task(self.whole)
            self.whole = None
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


def _rich(table: Table) -> RichTable:
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
