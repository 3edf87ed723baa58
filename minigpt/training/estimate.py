"""Estimated training time on this machine, from a few updates of a copy of the model."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from minigpt.data import Corpus, alike_updates, sequence_length, tokens_trained, train_batch
from minigpt.experiment import MAX_COUNT, Experiment
from minigpt.model import GPT
from minigpt.run.evaluation import autocast, micro_batch_size
from minigpt.run.packing import pack
from minigpt.training.compiling import Loss, loss_of
from minigpt.training.interleaved import Ratio, measure_ratio, median_interval
from minigpt.training.loop import compute_gradients, take_step
from minigpt.training.machine import build_optimizer

_AT_MOST_SECONDS, _AT_MOST_UPDATES = 3.0, 8
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_SHAPES = 8  # groups of batches of similar size, each of which is timed
_FEWEST = 6  # updates; with fewer, no interval holds their median with 95 % confidence
_RATIO_AT_MOST_SECONDS, _RATIO_WIDTH = 30.0, 0.02


@dataclass(frozen=True)
class Speed:
    """The measured speed of training.

    Attributes:
        update: Seconds for an update; a mean over the training, if updates differ in size.
        evaluation: Seconds for an evaluation of the whole validation split, including its sample.
        spread: The 95 % interval of the median seconds of an update.
        state: The optimizer's state after the measured updates, as in its state_dict. A checkpoint's state has this form.
    """

    update: float
    evaluation: float
    spread: tuple[float, float]
    state: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def margin(self) -> float:
        """Relative uncertainty of `update`: the distance to the further end of its interval, divided by it."""
        return max(self.spread[1] - self.update, self.update - self.spread[0]) / self.update

    def times(self, ratio: float) -> Speed:
        """The same speed, but each update takes `ratio` times as long."""
        low, high = self.spread
        return replace(self, update=ratio * self.update, spread=(ratio * low, ratio * high))

    def seconds(self, experiment: Experiment, first_step: int = 0, update: float | None = None) -> float:
        """Estimated seconds from `first_step` to the end.

        Args:
            experiment: Gives the number of updates and the interval of evaluations.
            first_step: Updates done before.
            update: Seconds for an update; None takes the measured ones.
        """
        training = experiment.training
        evaluations = training.max_iters // training.eval_interval - first_step // training.eval_interval
        evaluations += training.max_iters % training.eval_interval > 0
        each = self.update if update is None else update
        left: float = training.max_iters
        if first_step:  # the rest may be larger than the mean, so it is measured in updates of mean size
            left *= tokens_trained(experiment, first_step=first_step) / tokens_trained(experiment)
        return left * each + evaluations * self.evaluation

    def updates_within(self, experiment: Experiment, seconds: float) -> int:
        """How many updates, with their evaluations, fit into a time budget; at least one."""
        room = seconds - self.evaluation  # the final evaluation
        each = self.update + self.evaluation / experiment.training.eval_interval
        return max(1, min(int(room / each), MAX_COUNT))


class Trial:
    """Timed training of a copy of a model; the model does not change, and nothing is written.

    Use it within `torch.random.fork_rng`, because it draws random numbers.
    """

    def __init__(self, experiment: Experiment, corpus: Corpus, model: GPT, precision: str):
        self.experiment, self.corpus, self.precision = experiment, corpus, precision
        self.model = copy.deepcopy(model).train()
        self.optimizer = build_optimizer(experiment, self.model, precision)
        self.compiled: Loss | None = None
        self.alike = alike_updates(experiment, sequence_length(corpus, experiment), most=_SHAPES)
        self.turns = 0

    def update(self, *, compiled: bool = False) -> float:
        """Make an update, and return its seconds; the first compiled update takes a minute or more.

        If updates differ in size, it makes one of each size, and returns the mean over the whole training.
        """
        if compiled and self.compiled is None:
            self.compiled = loss_of(self.model, compiled=True)
        loss, mean = self.compiled if compiled else None, 0.0
        for alike in self.alike:
            start = time.perf_counter()
            # steps spread over the training by the golden ratio
            step = alike.steps[int(self.turns * _GOLDEN_RATIO % 1 * len(alike.steps))]
            batch = train_batch(self.corpus, self.experiment, step)
            measured = compute_gradients(self.model, batch, self.experiment, self.precision, loss)
            take_step(self.model, self.optimizer)
            measured.tolist()  # waits for the device
            mean += (time.perf_counter() - start) * alike.weight(batch)
        self.turns += 1
        return mean

    def evaluation(self) -> float:
        """Estimated seconds of an evaluation, from part of one. Call it after all updates."""
        return _evaluation_seconds(self.model, self.experiment, self.corpus, self.precision)

    def state(self) -> dict[Any, Any]:
        """The optimizer's state. A state that cannot be saved is refused here, before the first checkpoint."""
        state = self.optimizer.state_dict()
        pack(state, {})
        return dict(state["state"])


def measure_speed(
    experiment: Experiment,
    corpus: Corpus,
    model: GPT,
    precision: str,
    *,
    compiled: bool = False,
    width: float | None = None,
) -> Speed:
    """Time updates and a validation batch on a copy; the model and the random state do not change.

    Without `width` it makes eight updates; with it, updates until the interval of their median has that relative width.
    In both cases it stops after three seconds.
    """
    with torch.random.fork_rng():
        trial = Trial(experiment, corpus, model, precision)
        began = time.perf_counter()
        trial.update(compiled=compiled)  # to warm up
        updates = [trial.update(compiled=compiled)]
        while time.perf_counter() - began < _AT_MOST_SECONDS and not _are_enough(updates, width):
            updates.append(trial.update(compiled=compiled))
        return Speed(statistics.median(updates), trial.evaluation(), median_interval(updates), trial.state())


def compare_compiled(experiment: Experiment, corpus: Corpus, model: GPT, precision: str) -> Ratio:
    """The time of a compiled update relative to a plain one, timed in turn on one copy of the model."""
    with torch.random.fork_rng():
        trial = Trial(experiment, corpus, model, precision)
        compiled = functools.partial(trial.update, compiled=True)
        return measure_ratio(trial.update, compiled, width=_RATIO_WIDTH, at_most=_RATIO_AT_MOST_SECONDS)


def _are_enough(updates: Sequence[float], width: float | None) -> bool:
    if width is None:
        return len(updates) >= _AT_MOST_UPDATES - 1  # one more update was the warm-up
    low, high = median_interval(updates)
    return len(updates) >= _FEWEST and high - low <= 2 * width * statistics.median(updates)


def _evaluation_seconds(model: GPT, experiment: Experiment, corpus: Corpus, precision: str) -> float:
    """Seconds of one validation batch and a few decoded tokens, scaled up to a whole evaluation."""
    size = micro_batch_size(experiment, model.device)
    batch = next(corpus.val.windows(size, experiment.model.block_size))
    model.eval()
    with torch.no_grad(), autocast(precision, batch.tokens.device):
        start = time.perf_counter()
        float(model.cross_entropy(batch.tokens, batch.targets, batch.mask))
    seconds = (time.perf_counter() - start) * corpus.val.n_targets / max(1, batch.n_targets)
    if corpus.tokenizer is None:
        return seconds
    with torch.inference_mode():
        state = model.new_state(1, experiment.model.block_size)
        start = time.perf_counter()
        trial = min(8, batch.tokens.shape[1])
        for place in range(trial):
            model.logits(model.hidden(batch.tokens[:1, place : place + 1], state)[0])
    return seconds + (time.perf_counter() - start) / trial * experiment.sampling.max_new_tokens
