"""`minigpt ladder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from minigpt.cli.comparison_options import (
    Budget,
    CsvFile,
    Delta,
    Device,
    Jobs,
    JsonFile,
    MarkdownFile,
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
    one_of,
    seed_number,
)
from minigpt.cli.options import NoPlugins, PluginFile, Set, Trust
from minigpt.cli.terminal import warn
from minigpt.system.files import write_output

if TYPE_CHECKING:
    from rich.console import Console

    from minigpt.cli.compare import Watching
    from minigpt.lab.ladder import Laddered
    from minigpt.lab.ladder.laddering import Rung

Files = Annotated[list[Path], typer.Argument(metavar="BASE VARIANT...", help="Experiment files. The first is the base.")]
Sizes = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="At least three sizes: width x layers of the base (64x2,96x3,128x4), or factors of its size (0.5,0.75,1).",
    ),
]
LearningRate = Annotated[
    str,
    typer.Option(
        "--rate",
        metavar="RULE",
        help="Learning rate by size: mup (the init mup around the file's own width), width (divided by the width's ratio) "
        "or same.",
    ),
]
TokensPerParameter = Annotated[
    float | None,
    typer.Option(min=1e-6, max=1e9, help="Training tokens for each parameter. Default: as many as in the base's file."),
]
Exponent = Annotated[
    float,
    typer.Option(
        "--token-exponent",
        min=0,
        max=3,
        help="Tokens grow from those of the base's file with this power of the parameters.",
    ),
]
Name = Annotated[str | None, typer.Option(help="Name of the ladder's folder. Default: BASE-ladder.")]


def ladder(
    files: Files,
    sizes: Sizes = "0.5,0.75,1",
    rate: LearningRate = "mup",
    tokens_per_parameter: TokensPerParameter = None,
    exponent: Exponent = 1.0,
    seeds: Seeds = None,
    budget: Budget = None,
    unit: Unit = "nats",
    tune: Tunes = None,
    tune_seeds: TuneSeeds = None,
    tune_budget: TuneBudget = None,
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
    """Compare variants with a base at several sizes: how much less compute reaches the same loss, and does it last?

    Width, depth and tokens grow together. To continue a ladder that was stopped, repeat the same command.
    """
    words = checked_words(budget, None, unit, [json_file, csv_file, markdown], None)

    from minigpt.cli.drawing import terminal
    from minigpt.lab import compare as lab
    from minigpt.lab.ladder import Growth
    from minigpt.lab.ladder import ladder as run_ladder
    from minigpt.lab.ladder.sizes import Rate

    one_of("--rate", rate, get_args(Rate))
    tuning = lab.Tuning.parse(tune or (), tune_seeds, tune_budget)
    with _Watching(terminal()) as watcher:
        laddered = run_ladder(
            files,
            Growth(tuple(sizes.split(",")), rate, tokens_per_parameter, exponent),  # type: ignore[arg-type]
            lab.Settings(seed_number(seeds), noise=False, delta=delta, device=device, jobs=jobs, tuning=tuning, **words),
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
        _report(laddered, watcher.console, json_file, csv_file, markdown)


def _report(
    laddered: Laddered, console: Console, json_file: Path | None, csv_file: Path | None, markdown: Path | None
) -> None:
    """Print and write the results. If a signal stopped the ladder, exit with that signal's code."""
    if laddered.stop_signal is not None:
        warn("stopped, unfinished runs are saved; continue with the same command")
        raise typer.Exit(128 + laddered.stop_signal)

    from minigpt.cli.compare import rich_table
    from minigpt.lab.ladder.tables import csv_text, lines, markdown_text, notes, size_table

    assert laddered.results is not None
    console.print(rich_table(size_table(laddered.results)))
    for line in lines(laddered.results):
        console.print(line, soft_wrap=True, style="yellow" if line.startswith(" ") else "")
    for note in notes(laddered.results):
        console.print(note, style="dim", soft_wrap=True)
    if json_file is not None:
        write_output(json_file, laddered.file.read_bytes())
    if csv_file is not None:
        write_output(csv_file, csv_text(laddered.results).encode("utf-8"))
    if markdown is not None:
        write_output(markdown, markdown_text(laddered.results).encode("utf-8"))
    console.print(f"\nsaved in {laddered.folder}")


class _Watching:
    """Prints the plan, and shows each size's comparison as `minigpt compare` does."""

    def __init__(self, console: Console):
        self.console = console
        self.current: Watching | None = None

    def __enter__(self) -> _Watching:
        return self

    def __exit__(self, *error: object) -> None:
        if self.current is not None:
            self.current.__exit__(*error)

    def ladder_planned(self, folder: Path, rungs: Sequence[Rung]) -> None:
        """Print the sizes, and how long they take."""
        from minigpt.cli.compare import rich_table
        from minigpt.lab.ladder.tables import plan_table, plan_times

        self.console.print(rich_table(plan_table(rungs)))
        if any(rung.plan.grid.missing_runs() for rung in rungs):
            for line in plan_times(rungs):
                self.console.print(line, style="dim", soft_wrap=True)

    def size(self, rung: Rung) -> Watching:
        """A display of the size's comparison, in place of the one before."""
        from minigpt.cli.compare import Watching

        self.__exit__()
        self.current = Watching(self.console)
        return self.current
