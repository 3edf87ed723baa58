"""Observers of a training run: the trainer reports events, and an observer displays them."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from minigpt.errors import count
from minigpt.experiment import Experiment
from minigpt.numbers import duration, shown_loss, shown_speed
from minigpt.printable import printable
from minigpt.run.recorded import MetricsRow


@dataclass(frozen=True)
class Plan:
    """A session that is about to begin.

    Attributes:
        name: Name of the experiment.
        folder: The run folder.
        parameters: Number of trainable values.
        max_iters: Updates in total.
        first_step: Updates done before (when resuming).
        tokens: Tokens of the remaining updates.
        seconds: Estimated time of the remaining updates and evaluations.
        device: Such as `cpu`.
        precision: `fp32` or `bf16`.
        threads: Number of CPU threads.
        entropies: Reference losses in nats per token; None for a synthetic task.
        plugin_files: Plugin files in use.
        experiment: The experiment with all settings resolved.
    """

    name: str
    folder: str
    parameters: int
    max_iters: int
    first_step: int
    tokens: int
    seconds: float
    device: str
    precision: str
    threads: int
    entropies: dict[str, float] | None
    plugin_files: tuple[str, ...] = ()
    experiment: Experiment | None = None

    def lines(self) -> list[str]:
        """The plan as lines of text: experiment, machine, size, estimated time and yardsticks."""
        place = f"{self.device}, {self.precision}" + (f", {count(self.threads, 'thread')}" if self.device == "cpu" else "")
        steps = self.max_iters - self.first_step
        size = f"{self.parameters:,} parameters, {self.tokens:,} tokens in {count(steps, 'step')}"
        lines = [f"resuming {self.name} after update {self.first_step:,} of {self.max_iters:,}"] if self.first_step else []
        lines += [f"{self.name}: {size}, about {duration(self.seconds)} on this machine ({place})"]
        lines += [f"plugin: {file}" for file in self.plugin_files]
        if self.entropies:
            values = "   ".join(f"{name} {nats:.3f}" for name, nats in self.entropies.items())
            lines.append(f"yardsticks, nats per token: {values}")
        return lines


class Pace:
    """The remaining time, estimated from the time of this session so far, including evaluations."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.began = time.monotonic()

    def left(self, step: float) -> float:
        """Seconds until the last update; at first the plan's estimate dominates."""
        passed, done = time.monotonic() - self.began, step - self.plan.first_step
        planned = self.plan.seconds / max(1, self.plan.max_iters - self.plan.first_step)
        # Counts the plan as ten more updates, because the first updates of a session vary a lot.
        each = (passed + 10 * planned) / (done + 10)
        return each * (self.plan.max_iters - step)


class Observer(Protocol):
    """Receives each event of a session; the arguments have everything about the event."""

    def note(self, text: str) -> None:
        """Receive a message for the user."""

    def begin(self, plan: Plan) -> None:
        """Training is about to begin."""

    def updated(self, row: MetricsRow) -> None:
        """An update was made; `row` is its line in metrics.jsonl."""

    def evaluating(self, done: int, total: int) -> None:
        """An evaluation has processed `done` of `total` targets."""

    def evaluated(self, row: MetricsRow, best: bool, sample: str | None) -> None:
        """An evaluation is complete; `sample` is text drawn from the model."""

    def end(self) -> None:
        """The session has ended; no more events follow."""


class PlainObserver:
    """Prints lines of text, for notebooks, files and pipes.

    It prints at most one line every few seconds, and one per evaluation.
    """

    def __init__(self, stream: TextIO | None = None, every_seconds: float = 5.0):
        self.stream = stream or sys.stdout
        self.every_seconds = every_seconds
        self.plan: Plan | None = None
        self._next = 0.0

    def note(self, text: str) -> None:
        """Print the message."""
        self._print(text)

    def begin(self, plan: Plan) -> None:
        """Print the plan."""
        self.plan, self.pace = plan, Pace(plan)
        for line in plan.lines():
            self._print(line)

    def updated(self, row: MetricsRow) -> None:
        """Print a line, at most once every `every_seconds`."""
        if row.wall >= self._next:
            self._next = row.wall + self.every_seconds
            self._print(self._line(row))

    def evaluating(self, done: int, total: int) -> None:
        """Do nothing: a line per batch would be too much."""

    def evaluated(self, row: MetricsRow, best: bool, sample: str | None) -> None:
        """Print the losses and the sample."""
        self._print(self._line(row) + ("  best so far" if best else ""))
        if sample:
            self._print("\n".join(f"    | {line}" for line in sample.splitlines()))

    def end(self) -> None:
        """Do nothing: there is nothing to close."""

    def _line(self, row: MetricsRow) -> str:
        assert self.plan is not None, "begin comes first"
        text = f"step {row.step:>{len(str(self.plan.max_iters))}}/{self.plan.max_iters}  {loss_in_words(row)}"
        if row.val_loss is not None:
            text += f"  val {shown_loss(row.val_loss)}"
        left = duration(self.pace.left(row.step))
        return text + f"  lr {row.lr:.2e}  {shown_speed(row.tokens_per_second)} tokens/s  {left} left"

    def _print(self, text: str) -> None:
        try:
            print(printable(text), file=self.stream, flush=True)
        except OSError:  # a closed terminal or pipe, or a full disk: training continues without output
            self.stream = io.StringIO()


def loss_in_words(row: MetricsRow) -> str:
    """`loss 1.2345`, or `left out` for an update that was skipped because its loss was not finite."""
    return f"loss {shown_loss(row.train_loss)}" if row.train_loss is not None else "left out"
