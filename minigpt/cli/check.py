"""`minigpt check`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minigpt.cli.options import PluginFile, Set, Trust, reading_of
from minigpt.cli.terminal import say, warn
from minigpt.errors import CheckError, RunError, WriteError, command_line, listing

if TYPE_CHECKING:
    from rich.console import Console

    from minigpt.check import Result, Target, TargetReport
    from minigpt.check.gate import GateReport
    from minigpt.check.parallel import Options
    from minigpt.run import ModelCheck
    from minigpt.training import Outcome

Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TARGET...",
        help="A component (attention/gqa), a family (norm), a plugin file (mine.py), an experiment file (mine.json) or "
        "the folder of a finished run (its trained model).",
    ),
]
Thorough = Annotated[
    bool | None,
    typer.Option(
        "--thorough/--no-thorough",
        help="Include slow properties, such as torch.compile. Default: only for up to three targets.",
    ),
]
Examples = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Number of random cases per property, in addition to fixed cases.")
]


def check(
    targets: Targets = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every registered component.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Check only the properties that take seconds.")] = False,
    thorough: Thorough = None,
    only: Annotated[list[str] | None, typer.Option(metavar="PROPERTY", help="Check only this property. Repeatable.")] = None,
    changes: Set = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the random cases.")] = 0,
    examples: Examples = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Number of processes. Default: one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    plugin: PluginFile = None,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Load no plugins.")] = False,
    trust: Trust = False,
) -> None:
    """Test components against their contract.

    The properties of a contract are causality, shapes, decoding, gradients, determinism and more. Each is tested on many
    cases. Exit code 0: no tested case breaks a property; 1: a property is broken; 2: nothing could be tested.
    """
    from minigpt.check import find_targets, property_names
    from minigpt.check.parallel import Options, check_all, default_jobs
    from minigpt.check.suite import EXAMPLES

    if not targets and not everything:
        raise typer.BadParameter("name a component, a family, a plugin file or an experiment; or give --all")
    chosen = find_targets(
        targets or [],
        everything=everything,
        reading=reading_of(changes, plugin, no_plugins, trust),
    )
    families = sorted({target.family for target in chosen})
    known = {name for family in families for name in property_names(family)}
    if only and not known.intersection(only) and set(only) <= set(property_names()):
        raise CheckError(f"--only {listing(only)}: no such property of {listing(families)}; known: {listing(known)}")
    options = Options(
        only=tuple(only or ()),
        seed=seed,
        quick=quick,
        thorough=(len(chosen) <= 3 and not quick) if thorough is None else thorough,
        examples=examples or EXAMPLES,
    )
    from minigpt.cli.drawing import terminal

    console = terminal(width=None)
    with _Progress(chosen) as progress:
        reports = check_all(chosen, options, jobs=jobs or default_jobs(chosen), done=progress.done)
    if not only and not quick:
        _record(reports)
    if as_json:
        say(json.dumps(_document(reports, options), indent=2, ensure_ascii=False))
    else:
        print_reports(reports, console, options)
    raise typer.Exit(exit_code(reports))


def pass_gate(report: GateReport | None, *, advice: str = "") -> None:
    """Print the report of the check before a run; exit with code 1, and with `advice`, if a property is broken."""
    if report is None:
        return
    from minigpt.cli.drawing import terminal

    console = terminal(err=True, width=None)
    for broken in report.broken:
        first, *others = broken.failures
        print_failure(broken, first, console, report.options)
        if others:
            console.print(f"  and also:         {', '.join(result.property for result in others)}", style="dim")
    if report.broken:
        warn(f"\nerror: not trained, because the problem above makes its loss meaningless{advice}")
        raise typer.Exit(1)
    names = ", ".join(each.target for each in report.reports)
    say(f"checked in {report.seconds:.1f} s, {'the quick part' if report.options.quick else 'in full'}: {names}")


def check_trained(outcome: Outcome) -> ModelCheck | None:
    """Check the trained model at the end of a session, and print how long it took; None if the session was stopped."""
    if outcome.scorer is None:
        return None
    from minigpt.check.after_training import check_after_training

    began, scorer = time.perf_counter(), outcome.scorer
    checked = check_after_training(outcome.run, scorer.experiment, scorer.corpus, scorer.model)
    say(f"checked the trained model in {time.perf_counter() - began:.1f} s: {checked.words}")
    return checked


def fail_if_violated(outcome: Outcome, checked: ModelCheck | None) -> None:
    """Exit with code 1 if the trained model violates a property; everything is saved."""
    if checked is None or checked.violation is None:
        return
    name = checked.violation.partition(":")[0]
    see = command_line("check", outcome.run.path, "--only", name)
    warn(f"error: {checked.reason}; its loss means nothing. To see it: {see}")
    raise typer.Exit(1)


def _record(reports: Sequence[TargetReport]) -> None:
    """Record the whole checks of trained models in their run folders; a folder that cannot be written stays as it is."""
    from minigpt.check.after_training import model_check
    from minigpt.check.targets import RUN
    from minigpt.run import RunFolder

    for report in reports:
        if report.family == RUN and report.verdict != "untried":
            run = RunFolder(Path(report.target))
            try:
                run.record_model_check(model_check(report, run))
            except (RunError, WriteError) as error:
                warn(f"the result is not recorded: {error}")


def exit_code(reports: Sequence[TargetReport]) -> int:
    """0 if no property is broken, 1 if one is, 2 if nothing could be tested."""
    verdicts = {report.verdict for report in reports}
    return 1 if "fail" in verdicts else 2 if verdicts == {"untried"} else 0


class _Progress:
    """A progress bar, only on a terminal. It is removed at the end."""

    def __init__(self, targets: Sequence[Target]):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        from minigpt.cli.drawing import column, terminal

        self.bar = Progress(
            column("checking {task.fields[latest]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=terminal(err=True),
            transient=True,
        )
        self.task = self.bar.add_task("", total=len(targets), latest=targets[0].label if len(targets) == 1 else "")

    def __enter__(self) -> _Progress:
        if self.bar.console.is_terminal:
            self.bar.start()
        return self

    def done(self, report: TargetReport) -> None:
        """Advance the bar by one target."""
        self.bar.update(self.task, advance=1, latest=report.target)

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


def print_reports(reports: Sequence[TargetReport], console: Console, options: Options) -> None:
    """Print a table per target, or one line per target if there are more than three; then every failure in full."""
    if len(reports) <= 3:
        for report in reports:
            _print_table(report, console)
    else:
        _print_lines(reports, console)
    for report in reports:
        for result in report.failures:
            print_failure(report, result, console, options)
    _print_sum(reports, console)


_COLOURS = {"pass": "green", "fail": "bold red", "skip": "dim", "untried": "yellow"}


def _print_table(report: TargetReport, console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False, title=Text(report.target, "bold"), title_justify="left")
    for name in ("property", "", "tried"):
        table.add_column(name, no_wrap=True)
    table.add_column("meaning")
    for result in report.results:
        tried = f"{result.tried:,}" if result.tried else "-"
        says = Text(result.says)
        if result.note:
            says = Text.assemble((result.says, "dim" if result.verdict == "skip" else ""), " ", ("Not tried:", "dim"), " ")
            says.append(result.note, "italic dim")
        table.add_row(result.property, Text(result.verdict, _COLOURS[result.verdict]), Text(tried, justify="right"), says)
    console.print(table)


def _print_lines(reports: Sequence[TargetReport], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for report in reports:
        held = sum(result.verdict == "pass" for result in report.results)
        cases = sum(result.tried for result in report.results)
        names = ", ".join(result.property for result in report.failures)
        notes = sorted({result.note for result in report.results if result.verdict == "skip"})
        words = f"breaks {names}" if names else f"{held} properties, {cases:,} cases" if held else "; ".join(notes)
        table.add_row(report.target, Text(report.verdict, _COLOURS[report.verdict]), words, f"{report.seconds:.1f} s")
    console.print(table)


def print_failure(report: TargetReport, result: Result, console: Console, options: Options) -> None:
    """Print one failure: its message, the smallest example, the usual cause, and the command that reproduces it."""
    from rich.text import Text

    from minigpt.check.gate import again

    failure = result.failure
    assert failure is not None
    size = "" if failure.size is None else f" (by {failure.size:.2g} of its size)"
    console.print()
    console.print(Text.assemble((f"{report.target} breaks {result.property}: ", "bold red"), result.says))
    rows = [
        ("found", f"{failure.message}{size}"),
        ("smallest example", ", ".join(f"{key}={json.dumps(value)}" for key, value in failure.example.items())),
        ("usual cause", failure.cause),
        ("reproduce", again(report, result, options)),
    ]
    for name, text in rows:
        if text:
            console.print(Text.assemble((f"  {name + ':':<18}", "dim"), text), soft_wrap=True)


def _print_sum(reports: Sequence[TargetReport], console: Console) -> None:
    from rich.text import Text

    failing = [report for report in reports if report.verdict == "fail"]
    untried = [report for report in reports if report.verdict == "untried"]
    seconds = sum(report.seconds for report in reports)
    cases = sum(result.tried for report in reports for result in report.results)
    parts = [f"{len(reports)} checked" if len(reports) > 1 else reports[0].target]
    parts.append(f"{len(failing)} broken" if failing and len(reports) > 1 else "broken" if failing else "no property broken")
    parts += [f"{len(untried)} could not be tried"] if untried and len(reports) > 1 else []
    colour = "bold red" if failing else "yellow" if len(untried) == len(reports) else "bold green"
    console.print()
    console.print(Text.assemble((": ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:]), colour), ""))
    console.print(Text(f"{cases:,} cases in {seconds:.0f} s of computing", "dim"))


def _document(reports: Sequence[TargetReport], options: Options) -> dict[str, object]:
    import torch

    from minigpt import __version__

    return {
        "verdict": {0: "pass", 1: "fail", 2: "untried"}[exit_code(reports)],
        "minigpt": __version__,
        "torch": torch.__version__,
        "seed": options.seed,
        "examples": options.examples,
        "quick": options.quick,
        "targets": [report.to_json() for report in reports],
    }
