"""The training loop: update, evaluate, sample, record, save; and stop between any two of them without losing a bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from minigpt.contracts import AveragingOptimizer
from minigpt.data import Batch, Corpus, train_batch
from minigpt.decoding import sample_text
from minigpt.errors import DivergedError
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Checkpoint, Progress
from minigpt.run.folder import RunFolder
from minigpt.training.averaging import answering
from minigpt.training.compiling import loss_of
from minigpt.training.machine import autocast, build_optimizer, micro_batch_size
from minigpt.training.metrics import GrowingFile, evaluate
from minigpt.training.observer import Observer

_READ_TOGETHER = {"cpu": 1, "cuda": 16, "mps": 16}  # updates whose numbers are read from a device at once
_UPDATE, _SAMPLE = 0, 1  # streams of random numbers within a step


class _Stopped(Exception):
    """The user asked to stop while an evaluation was under way."""


@dataclass(frozen=True)
class _Waiting:
    """An update whose numbers are still on the device: loss, auxiliary loss and norm in one tensor."""

    step: int
    tokens: int
    learning_rate: float
    measured: torch.Tensor


@dataclass(frozen=True)
class Outcome:
    """How a sitting ended.

    Attributes:
        status: `finished`, or `stopped` before the last update.
        run: The run folder.
        progress: How far it came.
        val_loss: Validation loss after the last update, in nats a token; None if it was stopped.
        sample: Text drawn then.
        stop_signal: The signal that stopped it.
    """

    status: Literal["finished", "stopped"]
    run: RunFolder
    progress: Progress
    val_loss: float | None = None
    sample: str | None = None
    stop_signal: int | None = None


class Trainer:
    """One run, from wherever it stands to its last update.

    What an update does depends on the weights, the optimizer's state, the seed and the update's number, and on nothing
    else: the random numbers of each are drawn afresh from (seed, number). So a run that was killed and resumed is bit for
    bit the run that was not.

    Args:
        experiment: Resolved.
        corpus: On the device.
        model: On the device.
        precision: `fp32` or `bf16`.
        observer: Told of everything.
        run: Where it is written.
        start: The checkpoint to go on from.
    """

    def __init__(
        self,
        experiment: Experiment,
        corpus: Corpus,
        model: GPT,
        *,
        precision: str,
        observer: Observer,
        run: RunFolder,
        start: Checkpoint | None = None,
    ):
        self.experiment, self.corpus, self.model = experiment, corpus, model
        self.precision, self.observer, self.run = precision, observer, run
        self.device = model.embedding.weight.device
        training = experiment.training
        self.optimizer = build_optimizer(experiment, model, precision)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.schedule = training.schedule.at("training.schedule").build(training.max_iters)
        self.progress = Progress()
        if start is not None:
            start.load_weights(model)
            start.load_optimizer(self.optimizer)
            if isinstance(self.optimizer, AveragingOptimizer):
                self.optimizer.train()  # what was saved are the weights to be used
            self.progress = start.progress
        self.loss = loss_of(model, compiled=training.compile is True)
        self.row = self.progress.pending  # the last update's record, until it is complete and written
        self.waiting: list[_Waiting] = []
        self.together = _READ_TOGETHER[self.device.type]
        self.stop_signal: int | None = None
        self.sample: str | None = None
        self.val_loss: float | None = None

    def train(self) -> Outcome:
        """Train to the end, or until `stop_signal` is set.

        Raises:
            DivergedError: A loss or gradient is not finite; the last checkpoint is sound.
        """
        self.metrics = GrowingFile(self.run.metrics, self.progress.metrics_bytes)
        self.samples = GrowingFile(self.run.samples, self.progress.samples_bytes)
        self.last_time = time.perf_counter()
        self.model.train()
        try:
            while True:
                if self.row is not None:
                    self._complete(self.row)
                if self.progress.step >= self.experiment.training.max_iters:
                    return Outcome("finished", self.run, self.progress, self.val_loss, self.sample)
                if self.stop_signal is not None:
                    if self.waiting:
                        self._read_measured()
                    raise _Stopped
                self._update()
        except _Stopped:
            self._save(best=False)
            return Outcome("stopped", self.run, self.progress, stop_signal=self.stop_signal)
        finally:
            self.metrics.close()
            self.samples.close()

    # ----------------------------------------------------------------------------------------------------- one update

    def _update(self) -> None:
        step = self.progress.step
        torch.manual_seed(stream_seed(self.experiment.seed, step, _UPDATE))
        factor = self.schedule.factor(step)
        if not (math.isfinite(factor) and factor >= 0):
            raise DivergedError(
                f"training.schedule: the factor of update {step + 1} is {factor}; it must be finite, 0 or more"
            )
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        if not self.waiting:
            self.began = time.perf_counter()
        batch = train_batch(self.corpus, self.experiment, step)
        measured = compute_gradients(self.model, batch, self.experiment, self.precision, self.loss)
        take_step(self.model, self.optimizer)
        self.progress = replace(self.progress, step=step + 1, tokens=self.progress.tokens + batch.tokens.numel())
        self.waiting.append(_Waiting(step + 1, batch.tokens.numel(), self.peaks[0] * factor, measured))
        if len(self.waiting) >= self.together or self._is_due() or self.stop_signal is not None:
            self._read_measured()

    def _read_measured(self) -> None:
        """Wait for the device, write the records of the updates since the last time, and leave the last one to `_complete`.

        A number on the device is there when all before it is computed; to ask for it after every update would let the device
        stand idle meanwhile.
        """
        numbers = torch.stack([update.measured for update in self.waiting]).tolist()
        seconds = (time.perf_counter() - self.began) / len(self.waiting)
        tokens = self.progress.tokens - sum(update.tokens for update in self.waiting)
        for update, (loss, auxiliary, norm) in zip(self.waiting, numbers, strict=True):
            if not math.isfinite(loss) or not math.isfinite(norm):
                what = "gradient" if math.isfinite(loss) else "loss"
                raise DivergedError(
                    f"the {what} of update {update.step} is not finite (loss {loss}, gradient norm {norm}): {self._advice()}"
                )
            if self.row is not None:
                self.metrics.append_json(self.row)
                self.observer.updated(self.row)
            tokens += update.tokens
            self.progress = replace(self.progress, seconds=self.progress.seconds + seconds, wall=self._wall())
            self.row = {
                "step": update.step,
                "tokens": tokens,
                "seconds": round(self.progress.seconds, 6),
                "wall": round(self.progress.wall, 6),
                "train_loss": loss,
                "lr": update.learning_rate,
                **({"auxiliary_loss": auxiliary} if auxiliary else {}),
                "grad_norm": norm,
                "tokens_per_second": round(update.tokens / seconds, 1),
            }
        self.waiting.clear()

    def _is_due(self) -> bool:
        """Whether something follows the update that was done last: an evaluation, a checkpoint, the end."""
        training, step = self.experiment.training, self.progress.step
        intervals = [training.eval_interval, *([training.checkpoint_interval] if training.checkpoint_interval else [])]
        return step == training.max_iters or any(step % interval == 0 for interval in intervals)

    def _advice(self) -> str:
        steps = checkpoint.available(self.run.checkpoints)
        there = f"the checkpoint of step {steps[-1]} is sound" if steps else "there is no checkpoint yet"
        return f"training diverged; {there}. Try a lower learning_rate, a longer warm-up, or grad_clip (with --fresh)"

    def _wall(self) -> float:
        now = time.perf_counter()
        passed, self.last_time = now - self.last_time, now
        return self.progress.wall + passed

    # ----------------------------------------------------------------------------------- what follows an update

    def _complete(self, row: dict[str, float]) -> None:
        """Evaluate, sample and save where they are due, and write the record."""
        training, step = self.experiment.training, self.progress.step
        last = step == training.max_iters
        due = last or step % training.eval_interval == 0
        best = False
        if due:
            row = {**row, **self._answer()}
            best = self.progress.best_val_loss is None or row["val_loss"] < self.progress.best_val_loss
        self.metrics.append_json(row)
        self.row = None
        if best:
            self.progress = replace(self.progress, best_step=step, best_val_loss=row["val_loss"])
        save_every = training.checkpoint_interval
        if (due and (save_every is None or best)) or last or (save_every is not None and step % save_every == 0):
            self._save(best=best)
        if due:
            self.observer.evaluated(row, best, self.sample)
        else:
            self.observer.updated(row)

    def _answer(self) -> dict[str, float]:
        """Measure the model and draw a sample from it."""
        with answering(self.optimizer):
            measured = evaluate(self.model, self.corpus, self.experiment, self.precision, self._evaluating)
            step, self.val_loss = self.progress.step, measured["val_loss"]
            if not math.isfinite(self.val_loss):
                raise DivergedError(f"the validation loss after update {step} is {self.val_loss}: {self._advice()}")
            self.sample = self._draw()
        if self.sample is not None:
            self.samples.append(f"--- step {step}, validation loss {self.val_loss:.4f}\n{self.sample}\n")
        return measured

    def _evaluating(self, done: int, total: int) -> None:
        self.observer.evaluating(done, total)
        if self.stop_signal is not None:
            raise _Stopped

    def _draw(self) -> str | None:
        """A sample of text, from random numbers of its own."""
        if self.corpus.tokenizer is None:
            return None
        sampling = self.experiment.sampling
        seed = stream_seed(self.experiment.seed, self.progress.step, _SAMPLE)
        prompt = sampling.prompt
        return prompt.lstrip("\n") + sample_text(self.model, self.corpus.tokenizer, prompt, sampling, seed=seed)[0]

    def _save(self, *, best: bool) -> None:
        self.progress = replace(
            self.progress,
            wall=self._wall(),
            metrics_bytes=self.metrics.length,
            samples_bytes=self.samples.length,
            pending=self.row,
        )
        with answering(self.optimizer):
            checkpoint.save(self.run.checkpoints, self.model, self.optimizer, self.progress, best=best)


def compute_gradients(
    model: GPT,
    batch: Batch,
    experiment: Experiment,
    precision: str,
    loss_function: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Forward and backward, a micro-batch at a time; clips the gradients where the experiment says so.

    Args:
        model: Gets the gradients.
        batch: Of one update.
        experiment: For the micro-batch and the clipping.
        precision: `fp32` or `bf16`.
        loss_function: A compiled `model.loss`; None for the plain one.

    Returns:
        Three numbers, on the device: the batch's cross-entropy in nats a token, the auxiliary losses' mean over
        micro-batches, and the gradient's norm before clipping.
    """
    device = batch.tokens.device
    total, auxiliary_total = torch.zeros((), device=device), torch.zeros((), device=device)
    n_targets = batch.n_targets
    for part in batch.split(micro_batch_size(experiment, device)):
        share = part.n_targets / max(n_targets, 1)
        with autocast(precision, device):
            loss, auxiliary = (loss_function or model.loss)(part.tokens, part.targets, part.mask)
        torch.autograd.backward((loss + auxiliary) * share)
        total += loss.detach() * share
        auxiliary_total += auxiliary.detach() * share
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if experiment.training.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, experiment.training.grad_clip, norm)
    return torch.stack((total, auxiliary_total, norm))


def take_step(model: GPT, optimizer: torch.optim.Optimizer) -> None:
    """Move the weights by their gradients, drop these, and let components do what follows an update."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.after_step()


def stream_seed(seed: int, step: int, stream: int) -> int:
    """An independent seed for each (experiment seed, step, purpose)."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0])
