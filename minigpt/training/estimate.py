"""How long training will take on this machine, from a few updates of a copy of the model."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from minigpt.data import Corpus, train_batch
from minigpt.experiment import MAX_COUNT, Experiment
from minigpt.model import GPT
from minigpt.run.packing import pack
from minigpt.training.compiling import loss_of
from minigpt.training.loop import compute_gradients, take_step
from minigpt.training.machine import autocast, build_optimizer, micro_batch_size

_AT_MOST_SECONDS, _AT_MOST_UPDATES = 3.0, 8


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        update: Seconds for an update.
        evaluation: Seconds for an evaluation of the whole validation split, with its sample.
        state: The optimizer's state after these updates, as in its state_dict: what a checkpoint of it looks like.
    """

    update: float
    evaluation: float
    state: dict[Any, Any] = field(default_factory=dict, repr=False)

    def seconds(self, experiment: Experiment, first_step: int = 0) -> float:
        """Estimated time from `first_step` to the end."""
        training = experiment.training
        evaluations = training.max_iters // training.eval_interval - first_step // training.eval_interval
        evaluations += training.max_iters % training.eval_interval > 0
        return (training.max_iters - first_step) * self.update + evaluations * self.evaluation

    def updates_within(self, experiment: Experiment, seconds: float) -> int:
        """How many updates fit into a time budget with their evaluations; at least one."""
        room = seconds - self.evaluation  # the one at the end
        each = self.update + self.evaluation / experiment.training.eval_interval
        return max(1, min(int(room / each), MAX_COUNT))


def measure_speed(experiment: Experiment, corpus: Corpus, model: GPT, precision: str, *, compiled: bool = False) -> Speed:
    """Time updates and a validation batch on a copy: the model itself and the random state are left alone."""
    with torch.random.fork_rng():
        trial = copy.deepcopy(model).train()
        optimizer = build_optimizer(experiment, trial, precision)
        loss = loss_of(trial, compiled=compiled)
        updates: list[float] = []
        began = time.perf_counter()
        while len(updates) < 2 or (len(updates) < _AT_MOST_UPDATES and time.perf_counter() - began < _AT_MOST_SECONDS):
            start = time.perf_counter()
            batch = train_batch(corpus, experiment, len(updates))
            measured = compute_gradients(trial, batch, experiment, precision, loss)
            take_step(trial, optimizer)
            measured.tolist()  # waits for the device
            updates.append(time.perf_counter() - start)
        state = optimizer.state_dict()
        pack(state, {})  # what could not be saved is refused now, and not at the first checkpoint
        seconds = _evaluation_seconds(trial, experiment, corpus, precision)
        return Speed(statistics.median(updates[1:]), seconds, state["state"])


def _evaluation_seconds(model: GPT, experiment: Experiment, corpus: Corpus, precision: str) -> float:
    """One validation batch and a few decoded tokens, scaled up."""
    size = micro_batch_size(experiment, model.embedding.weight.device)
    batch = next(corpus.val.windows(size, experiment.model.block_size))
    model.eval()
    with torch.no_grad(), autocast(precision, batch.tokens.device):
        start = time.perf_counter()
        float(model.loss(batch.tokens, batch.targets, batch.mask)[0])
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
