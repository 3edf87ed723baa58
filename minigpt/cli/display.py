"""How a training run is shown: a live display on a terminal, plain lines elsewhere, and a final report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress
from rich.text import Text

from minigpt.cli.drawing import column, terminal
from minigpt.cli.outliving import outlive_the_terminal
from minigpt.cli.terminal import say
from minigpt.errors import command_line, count
from minigpt.experiment import Experiment
from minigpt.numbers import duration, shown_loss, shown_speed
from minigpt.run.recorded import MetricsRow
from minigpt.run.status import Status
from minigpt.training import Observer, Outcome, PlainObserver
from minigpt.training.observer import Pace, Plan, loss_in_words


def observer_for_terminal() -> Observer:
    """A live display on a terminal, plain lines elsewhere. Training continues if the output is closed."""
    outlive_the_terminal()
    return LiveObserver() if sys.stdout.isatty() else PlainObserver()


class LiveObserver:
    """A progress bar with the latest numbers and text sample; each evaluation leaves a line above it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or terminal()
        self.bar = Progress(
            column("{task.description}"),
            BarColumn(bar_width=14),
            column("{task.completed:.0f}/{task.total:.0f}"),
            column("{task.fields[figures]}"),
            console=self.console,
        )
        self.live: Live | None = None
        self.figures = ""
        self.sample: str | None = None

    def note(self, text: str) -> None:
        """Print a note above the display."""
        self.console.print(Text(text, style="yellow"))

    def begin(self, plan: Plan) -> None:
        """Print the plan and start the display."""
        self.plan, self.pace = plan, Pace(plan)
        self.val_loss: float | None = None
        title, *others = plan.lines()
        self.console.print(Text(title, style="bold"))
        for line in others:
            self.console.print(Text(line, style="dim"))
        self.training = self.bar.add_task("training", total=plan.max_iters, completed=plan.first_step, figures="")
        self.evaluation = self.bar.add_task("evaluating", total=1, visible=False, figures="")
        self.live = Live(self.bar, console=self.console, refresh_per_second=4)
        self.live.start()

    def updated(self, row: MetricsRow) -> None:
        """Update the progress bar and its numbers."""
        val = f"val {shown_loss(self.val_loss)}  " if self.val_loss is not None else ""
        speed = f"{shown_speed(row.tokens_per_second)} tokens/s  {duration(self.pace.left(row.step))} left"
        figures = f"{loss_in_words(row)}  {val}{speed}"
        self.bar.update(self.training, completed=row.step, figures=figures)

    def evaluating(self, done: int, total: int) -> None:
        """Show a second bar during an evaluation."""
        self.bar.update(self.evaluation, completed=done, total=total, visible=done < total)

    def evaluated(self, row: MetricsRow, best: bool, sample: str | None) -> None:
        """Print a line with the losses, and show the sample above the bar."""
        self.val_loss = row.val_loss
        self.updated(row)
        figures = f"val {shown_loss(row.val_loss)}  perplexity {row.val_perplexity:.2f}"
        line = Text(f"step {row.step}  {loss_in_words(row)}  ").append(figures, "bold")
        self.console.print(line.append("  best so far", "green") if best else line)
        if self.live and sample:
            self.sample = sample
            lines = sample.splitlines()[:8]
            panel = Panel(Text("\n".join(lines)), title=f"a sample at step {row.step}", title_align="left", style="dim")
            self.live.update(Group(panel, self.bar))

    def end(self) -> None:
        """Remove the display. The printed lines and the last sample stay."""
        if self.live:
            self.live.update(Text(self.sample or "", style="dim"))
            self.live.stop()


def report(outcome: Outcome, file: Path | None = None, experiment: Experiment | None = None) -> None:
    """Print the result of a session and the next commands. If a signal stopped it, exit with that signal's code.

    Args:
        outcome: The outcome of the session.
        file: The experiment file, to suggest a variant of it; None if a run was resumed.
        experiment: The content of the file.
    """
    progress, folder = outcome.progress, outcome.run.path
    if outcome.status is Status.STOPPED:
        resuming = command_line("resume", folder)
        if not progress.step:  # before the first update of this session
            advice = f"nothing changed; continue with: {resuming}" if outcome.run.exists() else "nothing was written"
            say(f"stopped before the first update: {advice}")
            sys.exit(128 + (outcome.stop_signal or signal.SIGINT))
        say(f"stopped after update {progress.step}, saved; continue with: {resuming}")
        sys.exit(128 + (outcome.stop_signal or signal.SIGINT))
    row = next(row for row in reversed(outcome.run.rows()) if row.val_loss is not None)
    bits = f", {row.val_bits_per_byte:.3f} bits per byte" if row.val_bits_per_byte is not None else ""
    say(
        f"\nvalidation loss {shown_loss(row.val_loss)} nats per token (perplexity {row.val_perplexity:.2f}{bits}) "
        f"after {progress.step:,} updates, {duration(progress.seconds)} of training"
    )
    entropies = outcome.run.provenance().data.entropies
    if entropies:
        say(f"for comparison: the bigram entropy, of a token given only the previous one, is {entropies['bigram']:.4f} nats")
    if progress.best_step != progress.step and progress.best_val_loss is not None:
        say(
            f"the lowest loss was {shown_loss(progress.best_val_loss)} at update {progress.best_step:,}, "
            'saved as the checkpoint "best"'
        )
    if progress.skipped:
        say(f"{count(progress.skipped, 'update')} skipped: loss or gradient was not finite (training.non_finite)")
    say(f"run folder: {folder}\n\nNext:")
    steps = [(command_line("generate", folder, "--max-new-tokens", "300"), "generate text")] if outcome.sample else []
    if file is not None and experiment is not None:
        # Every block uses a norm, and all norms take the same input, so this change is always possible and has an effect.
        other = "layernorm" if experiment.model.norm.name == "rmsnorm" else "rmsnorm"
        asked = _to_vary(sys.argv[1:], "model.norm")
        variant = command_line(*asked, "--set", f"model.norm={other}", "--name", f"{experiment.name}-{other}")
        steps.append((variant, "change one component and compare"))
    steps.append((command_line("list"), "list all components"))
    for command, meaning in steps:
        say(f"    # {meaning}\n    {command}")


def _to_vary(arguments: Sequence[str], path: str) -> list[str]:
    """The arguments of a command without --fresh, --name and settings at a path."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option in ("--name", "--set") and not equals:
            value = next(rest, "")
        if option in ("--name", "--fresh") or (option == "--set" and value.partition("=")[0].startswith(path)):
            continue
        kept += [argument] if equals or option != "--set" else [option, value]
    return kept
