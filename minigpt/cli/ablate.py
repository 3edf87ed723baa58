"""`minigpt ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minigpt.cli.comparison_options import (
    Budget,
    Delta,
    Device,
    Jobs,
    JsonFile,
    Knobs,
    MarkdownFile,
    Match,
    OnlyPlan,
    Out,
    Patience,
    Retry,
    Seeds,
    TuneBudget,
    Tunes,
    TuneSeeds,
    Unit,
    checked_words,
    seed_number,
)
from minigpt.cli.options import ExperimentFile, NoPlugins, PluginFile, Set, Trust, reading_of
from minigpt.cli.terminal import warn
from minigpt.errors import count
from minigpt.system.files import write_output

if TYPE_CHECKING:
    from rich.console import Console

    from minigpt.lab.ablate import Ablated, Ablation

From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="BASE", help="The base. Default: the file that the recipe extends, or else the defaults."
    ),
]
StudyName = Annotated[str | None, typer.Option("--name", help="Name of the study's folder. Default: RECIPE-ablation.")]
TableFile = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the table to this CSV file.")]


def ablate(
    recipe: ExperimentFile,
    base: From = None,
    seeds: Seeds = None,
    budget: Budget = None,
    match: Match = None,
    knob: Knobs = None,
    unit: Unit = "nats",
    tune: Tunes = None,
    tune_seeds: TuneSeeds = None,
    tune_budget: TuneBudget = None,
    delta: Delta = 0.01,
    changes: Set = None,
    name: StudyName = None,
    out: Out = Path("comparisons"),
    jobs: Jobs = 1,
    device: Device = "auto",
    plan_only: OnlyPlan = False,
    retry: Retry = False,
    json_file: JsonFile = None,
    csv_file: TableFile = None,
    markdown: MarkdownFile = None,
    patience: Patience = 15.0,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Report what each change of a recipe is worth, with a base that it is compared with.

    Each setting in which the two files differ is removed alone from the recipe, and added alone to the base. All results are
    judged together. To continue an ablation that was stopped, repeat the same command.
    """
    words = checked_words(budget, match, unit, [json_file, csv_file, markdown], knob)

    from minigpt.cli.compare import Watching
    from minigpt.cli.drawing import terminal
    from minigpt.lab.ablate import ablate as run
    from minigpt.lab.compare import Settings, Tuning

    tuning = Tuning.parse(tune or (), tune_seeds, tune_budget)
    with Watching(terminal()) as watcher:
        done = run(
            recipe,
            base,
            Settings(seed_number(seeds), noise=False, delta=delta, device=device, jobs=jobs, tuning=tuning, **words),
            out=out,
            name=name,
            reading=reading_of(changes, plugin, no_plugins, trust),
            only_plan=plan_only,
            retry=retry,
            patience=60 * patience,
            watcher=watcher,
        )
    _report(done, watcher.console, json_file, csv_file, markdown)


def _report(done: Ablated, console: Console, json_file: Path | None, csv_file: Path | None, markdown: Path | None) -> None:
    """Print and write the results. If a signal stopped the ablation, exit with that signal's code."""
    from minigpt.lab.ablate.tables import csv_text, markdown_text

    if done.stop_signal is not None:
        warn("stopped, unfinished runs are saved; continue with the same command")
        raise typer.Exit(128 + done.stop_signal)
    if done.ablation is None:
        after = " after the trials" if done.parts[0].plan.settings.tuning else ""
        runs = f"{count(done.runs_to_train(), 'run')} to train{after}"
        console.print(f"together {runs}: a run that both parts need is trained once")
        for line in done.refusals():
            console.print(line, style="yellow", soft_wrap=True)
        return
    _print(done.ablation, console)
    if json_file is not None:
        write_output(json_file, done.file.read_bytes())
    if csv_file is not None:
        write_output(csv_file, csv_text(done.ablation).encode("utf-8"))
    if markdown is not None:
        write_output(markdown, markdown_text(done.ablation).encode("utf-8"))
    console.print(f"\nsaved in {done.folder}")


def _print(ablation: Ablation, console: Console) -> None:
    from minigpt.cli.compare import rich_table
    from minigpt.lab.ablate.tables import ablation_table, findings, notes

    console.print(rich_table(ablation_table(ablation)))
    for finding in findings(ablation):
        console.print(finding, soft_wrap=True)
    for note in notes(ablation):
        console.print(note, style="dim", soft_wrap=True)
