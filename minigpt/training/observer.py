"""Who watches a training run. The trainer tells; an observer shows."""

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
    """What is about to happen.

    Attributes:
        name: Of the experiment.
        folder: Of the run.
        parameters: Trainable values.
        max_iters: Updates in all.
        first_step: Updates done before (when resuming).
        tokens_per_step: Tokens an update sees.
        seconds: Estimated time for what is left, evaluations included.
        device: Such as `cpu`.
        precision: `fp32` or `bf16`.
        threads: Of the CPU.
        entropies: Yardsticks in nats a token; None for a synthetic task.
        plugin_files: Plugin files in use.
        experiment: As it is trained.
    """

    name: str
    folder: str
    parameters: int
    max_iters: int
    first_step: int
    tokens_per_step: int
    seconds: float
    device: str
    precision: str
    threads: int
    entropies: dict[str, float] | None
    plugin_files: tuple[str, ...] = ()
    experiment: Experiment | None = None

    def lines(self) -> list[str]:
        """The plan in words: what runs where, how big, how long; and the yardsticks."""
        place = f"{self.device}, {self.precision}" + (f", {count(self.threads, 'thread')}" if self.device == "cpu" else "")
        steps = self.max_iters - self.first_step
        size = f"{self.parameters:,} parameters, {steps * self.tokens_per_step:,} tokens in {count(steps, 'step')}"
        lines = [f"resuming {self.name} after update {self.first_step:,} of {self.max_iters:,}"] if self.first_step else []
        lines += [f"{self.name}: {size}, about {duration(self.seconds)} on this machine ({place})"]
        lines += [f"plugin: {file}" for file in self.plugin_files]
        if self.entropies:
            values = "   ".join(f"{name} {nats:.3f}" for name, nats in self.entropies.items())
            lines.append(f"yardsticks, nats a token: {values}")
        return lines


class Pace:
    """How long is left, from the time this sitting has taken so far, evaluations and all."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.began = time.monotonic()

    def left(self, step: float) -> float:
        """Seconds until the last update; the plan's estimate until there is something to go by."""
        passed, done = time.monotonic() - self.began, step - self.plan.first_step
        planned = self.plan.seconds / max(1, self.plan.max_iters - self.plan.first_step)
        # As if ten updates had gone as planned: the first ones of a sitting tell little.
        each = (passed + 10 * planned) / (done + 10)
        return each * (self.plan.max_iters - step)


class Observer(Protocol):
    """Told of each event; everything it needs is in the arguments."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def begin(self, plan: Plan) -> None:
        """Training is about to begin."""

    def updated(self, row: MetricsRow) -> None:
        """An update was made: `row` is its line in metrics.jsonl so far."""

    def evaluating(self, done: int, total: int) -> None:
        """An evaluation has covered `done` of `total` targets."""

    def evaluated(self, row: MetricsRow, best: bool, sample: str | None) -> None:
        """An evaluation is complete; `sample` is text drawn from the model."""

    def end(self) -> None:
        """Nothing more will come."""


class PlainObserver:
    """Lines of text, for notebooks, files and pipes: one at most every few seconds, one at each evaluation."""

    def __init__(self, stream: TextIO | None = None, every_seconds: float = 5.0):
        self.stream = stream or sys.stdout
        self.every_seconds = every_seconds
        self.plan: Plan | None = None
        self._next = 0.0

    def note(self, text: str) -> None:
        """Print it."""
        self._print(text)

    def begin(self, plan: Plan) -> None:
        """Print the plan."""
        self.plan, self.pace = plan, Pace(plan)
        for line in plan.lines():
            self._print(line)

    def updated(self, row: MetricsRow) -> None:
        """Print a line now and then."""
        if row.wall >= self._next:
            self._next = row.wall + self.every_seconds
            self._print(self._line(row))

    def evaluating(self, done: int, total: int) -> None:
        """Nothing: a line a batch would be noise."""

    def evaluated(self, row: MetricsRow, best: bool, sample: str | None) -> None:
        """Print the losses and the sample."""
        self._print(self._line(row) + ("  best so far" if best else ""))
        if sample:
            self._print("\n".join(f"    | {line}" for line in sample.splitlines()))

    def end(self) -> None:
        """Nothing to tidy up."""

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
        except OSError:  # a closed terminal or pipe, a log on a full disk: training continues without a reader
            self.stream = io.StringIO()


def loss_in_words(row: MetricsRow) -> str:
    """`loss 1.2345`; an update that was left out has none, if the loss is what was not finite."""
    return f"loss {shown_loss(row.train_loss)}" if row.train_loss is not None else "left out"
