"""`minigpt compare`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from minigpt.cli.check import pass_gate
from minigpt.cli.options import NoPlugins, PluginFile, Set, Trust
from minigpt.cli.terminal import warn
from minigpt.errors import MinigptError, count, listing, nearest
from minigpt.printable import as_markdown
from minigpt.system.files import json_bytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from minigpt.lab.compare.grid import Cell
    from minigpt.lab.compare.job import CellRecord
    from minigpt.lab.compare.plan import ComparisonPlan
    from minigpt.lab.compare.record import FailedVariant
    from minigpt.lab.compare.tables import Table

_Budget = Literal["tokens", "flops", "time", "steps"]
_Size = Literal["params", "flops", "state"]
_Unit = Literal["nats", "bits-per-byte"]


def compare(
    sources: Annotated[
        list[Path], typer.Argument(metavar="BASE VARIANT...", help="Experiment files, or folders of runs; the base first.")
    ],
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Runs of each, paired by seed. 3, or those of the runs named."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="Give all as many tokens, flops, time or steps as the base has."),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bring all to the base's params, flops or state, within 1 %."),
    ] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="What --match changes, one after another; model.ffn.expansion without it."),
    ] = None,
    unit: Annotated[str, typer.Option(help="nats (a token), or bits-per-byte, which tokenizers share.")] = "nats",
    delta: Annotated[
        float, typer.Option(min=1e-9, max=100, help="Differences smaller than this do not matter to you.")
    ] = 0.01,
    changes: Set = None,
    name: Annotated[str | None, typer.Option(help="Of the comparison's folder; the base's name without it.")] = None,
    out: Annotated[Path, typer.Option(help="Where folders of comparisons are made.")] = Path("comparisons"),
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Runs at a time; the cores are shared out.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only say what would be trained, and how long it takes.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Train again what crashed or diverged.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything there as well.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row a run there.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables there, for a pull request.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0.01, max=1e5, help="Minutes without a sign of progress after which a run is given up.")
    ] = 15.0,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Say whether variants are better than a base, from runs with the same seeds, data and budget.

    Trains what is missing, each run in a process of its own, and uses finished runs that are the same in experiment, seed,
    data and code. Stopped, it goes on where it was when it is called again.
    """
    _one_of("--budget", budget, get_args(_Budget))
    _one_of("--match", match, get_args(_Size))
    _one_of("--unit", unit, get_args(_Unit))
    for file in (json_file, csv_file, markdown):
        if file is not None and not file.parent.is_dir():
            raise MinigptError(f"{file}: there is no folder {file.parent}")

    from minigpt.check.gate import check_before_training
    from minigpt.lab.compare.plan import Settings, make_plan
    from minigpt.run.status import Status

    tried, failed = ([], []) if no_plugins else _rehearse(sources, changes or (), plugin or (), device, trust, 60 * patience)
    words: dict[str, Any] = {"budget": budget, "match": match, "unit": unit}  # checked above
    knobs = tuple(knob or ["model.ffn.expansion"])
    plan = make_plan(
        [source for source in sources if str(source) not in {variant.source for variant in failed}],
        Settings(seeds=seeds, knobs=knobs, delta=delta, device=device, jobs=jobs, **words),
        out=out,
        name=name,
        overrides=changes or (),
        plugin_files=plugin or (),
        allow_plugins=not no_plugins,
        trust=trust,
        failed=failed,
    )
    if retry:
        for cell in plan.grid.cells:
            record = cell.outcome()
            if record is not None and record.outcome is not Status.FINISHED:
                cell.record.unlink()

    from minigpt.cli.drawing import terminal

    console = terminal()
    missing = _print_plan(plan, console)
    if plan_only:
        return
    for variant in plan.variants:
        if variant.source not in tried and any(cell.variant is variant for cell in missing):
            pass_gate(check_before_training(variant.experiment, variant.source, changes or (), in_full=False))
    from minigpt.cli.outliving import outlive_the_terminal
    from minigpt.training.stopping import Stop, StopNow, stopped_by_signals

    outlive_the_terminal()
    watcher, stop = _Progress(plan, missing, console), Stop()
    try:
        with stopped_by_signals(stop), stop.breakable(), watcher:
            plan.grid.run(
                watcher,
                jobs=jobs,
                device=device,
                threads=plan.threads,
                allow_plugins=not no_plugins,
                patience=60 * patience,
            )
    except StopNow:
        warn("stopped, and what was under way is saved; the same command continues")
        raise typer.Exit(128 + (stop.signal or 0)) from None

    from minigpt.lab.compare.tables import cost_table, csv_text, notes, verdict_table

    comparison = plan.judge()
    document = plan.write(comparison)
    tables = [verdict_table(comparison), cost_table(comparison)]
    for table in tables:
        console.print(_rich(table))
    lines = notes(comparison)
    for note in lines:
        console.print(note, style="dim", soft_wrap=True)
    if json_file is not None:
        json_file.write_bytes(json_bytes(document))
    if csv_file is not None:
        csv_file.write_text(csv_text(comparison), encoding="utf-8")
    if markdown is not None:
        text = "\n\n".join(f"**{table.title}**\n\n{table.markdown()}" for table in tables)
        markdown.write_text(text + "\n\n" + "\n".join(f"- {as_markdown(note)}" for note in lines) + "\n", encoding="utf-8")
    console.print(f"\nkept in {plan.folder}")


def _rehearse(
    sources: list[Path], changes: Sequence[str], plugin: Sequence[Path], device: str, trust: bool, seconds: float
) -> tuple[list[str], list[FailedVariant]]:
    """The sources that were tried elsewhere, for their plugins could do anything here; and which of them failed."""
    from minigpt.lab.compare.record import FailedVariant
    from minigpt.lab.compare.rehearsal import names_plugins, rehearse

    tried, failed = [], []
    naming = {source for source in dict.fromkeys(sources) if names_plugins(source, trust=trust)}  # before any is executed
    for source in dict.fromkeys(sources):
        if not plugin and source not in naming:
            continue
        tried.append(str(source))
        message = rehearse(source, changes, plugin, device=device, trust=trust, seconds=seconds)
        if message is not None and source == sources[0]:
            raise MinigptError(f"{source}, the base: {message}")
        if message is not None:
            failed.append(FailedVariant(name=source.stem, source=str(source), message=message))
    if failed and len(failed) == len(set(sources)) - 1:
        raise MinigptError(
            "\n".join(f"{variant.source}: {variant.message}" for variant in failed) + "\nnothing is left to compare"
        )
    return tried, failed


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise MinigptError(f'{option}: found "{value}"; allowed: {listing(allowed)}{nearest(value, allowed)}')


def _print_plan(plan: ComparisonPlan, console: Console) -> list[Cell]:
    """What there is, what is missing, how long that takes."""
    from rich.text import Text

    from minigpt.numbers import duration

    missing, to_train = plan.grid.missing(), plan.grid.missing_runs()
    seeds = plan.grid.seeds
    numbers = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    there = len(plan.grid.cells) - len(to_train)
    runs = f"seeds {numbers}: {count(len(plan.grid.cells), 'run')}, {there} there already"
    console.print(Text(plan.folder.name, "bold").append(f": {count(len(plan.variants), 'variant')}, {runs}", "not bold"))
    for failed in plan.failed:
        console.print(f"{failed.name}: {failed.message}; the others go on", style="red", soft_wrap=True)
    for variant in plan.variants:
        for note in variant.adjusted:
            console.print(f"{variant.name}: {note}", style="yellow", soft_wrap=True)
    for note in plan.grid.corpora.notes():
        console.print(note, style="yellow", soft_wrap=True)
    if len(missing) > len(to_train):
        measured = count(len(missing) - len(to_train), "finished run")
        console.print(f"{measured} to measure: the loss by position", style="dim")
    if to_train:
        jobs = plan.settings.jobs
        at_once = f", {jobs} at a time" if jobs > 1 else ""
        seconds, low, high = plan.seconds()
        likely = f"about {duration(seconds)} ({duration(low)} to {duration(high)})"
        console.print(f"{count(len(to_train), 'run')} to train{at_once}: {likely}", style="dim")
    return missing


class _Progress:
    """One display over the whole grid: a bar for it, and one for each run under way; lines where there is no terminal."""

    def __init__(self, plan: ComparisonPlan, missing: list[Cell], console: Console):
        from rich.progress import BarColumn, Progress, TimeElapsedColumn

        from minigpt.cli.drawing import column

        self.console = console
        self.updates = {  # of what is only measured none
            cell.name: 0 if cell.is_only_to_measure() else cell.variant.experiment.training.max_iters for cell in missing
        }
        self.steps = {cell.name: 0 for cell in missing}
        self.total = sum(self.updates.values())
        self.began = time.monotonic()
        columns = (
            column("{task.description}"),
            BarColumn(bar_width=24),
            column("{task.fields[figures]}"),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self.whole = self.bars.add_task("in all", total=self.total, figures="")
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> None:
        if self.total:
            self.bars.start()

    def __exit__(self, *of_error: object) -> None:
        self.bars.stop()

    def started(self, cell: Cell) -> None:
        """Give it a bar."""
        self.tasks[cell.name] = self.bars.add_task(cell.name, total=self.updates[cell.name] or None, figures="starting")
        if not self.console.is_terminal:
            self.console.print(f"{cell.name}: started")

    def progressed(self, cell: Cell, step: int) -> None:
        """Move its bar and the grid's."""
        from minigpt.numbers import duration

        self.steps[cell.name] = step
        self.bars.update(self.tasks[cell.name], completed=step, figures=f"update {step:,}")
        done, passed = sum(self.steps.values()), time.monotonic() - self.began
        left = passed / done * (self.total - done) if done else 0
        self.bars.update(self.whole, completed=done, figures=f"about {duration(left)} left" if done else "")

    def ended(self, cell: Cell, record: CellRecord | None) -> None:
        """Leave a line in place of its bar."""
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
