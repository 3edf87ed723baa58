"""The training loop: update, evaluate, sample, record, save.

It can stop between any two steps and resume bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch

from minigpt.contracts import AveragingOptimizer, Batch, Ramp
from minigpt.data import Corpus, train_batch
from minigpt.errors import DivergedError
from minigpt.experiment import Experiment
from minigpt.kernels.fused import wide_dtype
from minigpt.model import GPT
from minigpt.model.decoding import prompt_ids, sample_ids, stream_text
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.evaluation import Measured, Scorer, autocast, evaluate, micro_batch_size
from minigpt.run.folder import RunFolder
from minigpt.run.progress import Progress
from minigpt.run.recorded import LARGEST, MetricsRow
from minigpt.run.status import Status
from minigpt.training.averaging import answering
from minigpt.training.compiling import loss_of
from minigpt.training.machine import build_optimizer
from minigpt.training.observer import Observer
from minigpt.training.other_processes import OtherProcesses
from minigpt.training.saving import Saver
from minigpt.training.seeds import seed_generators, stream_seed
from minigpt.training.stopping import Stop, StopNow

_SKIPPED_IN_A_ROW = 20  # consecutive non-finite updates after which further skipping will not help
_UPDATE, _SAMPLE = 0, 1  # streams of random numbers within a step


class _Stopped(Exception):
    """A signal requested a stop; raised between updates and during an evaluation."""


@dataclass(frozen=True)
class Outcome:
    """How a session ended.

    Attributes:
        status: FINISHED, or STOPPED before the last update.
        run: The run folder.
        progress: The updates done, and their totals.
        val_loss: Validation loss after the last update, in nats per token; None if the session was stopped.
        sample: Text drawn after the last update.
        scorer: The trained model, with the weights that were measured, and its data; None if the session was stopped.
        stop_signal: The signal that stopped the session.
    """

    status: Literal[Status.FINISHED, Status.STOPPED]
    run: RunFolder
    progress: Progress
    val_loss: float | None = None
    sample: str | None = None
    scorer: Scorer | None = None
    stop_signal: int | None = None


class Trainer:
    """Trains one run from its current update to the last.

    An update depends only on the weights, the optimizer's state, the seed and the update's number. Its random numbers come
    from (seed, number). So a run that was killed and resumed equals an uninterrupted run bit for bit.

    Args:
        experiment: Resolved.
        corpus: On the device.
        model: On the device.
        precision: `fp32` or `bf16`.
        observer: Notified of every event.
        run: The folder to write to.
        start: The checkpoint to continue from.
        counted: For a run that is continued with changes: the keys that the optimizer updates itself in each of its groups.
            All other keys of the groups come from the experiment. None if nothing changed.
        stop: Checked between any two updates, evaluation batches and sampled tokens.
        clock: Seconds, for saves at time intervals.
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
        counted: Sequence[frozenset[str]] | None = None,
        stop: Stop | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stop = stop or Stop()
        self.experiment, self.corpus, self.model = experiment, corpus, model
        self.precision, self.observer, self.run = precision, observer, run
        self.scorer = Scorer(model, corpus, experiment, precision)
        self.device = model.device
        training = experiment.training
        self.optimizer = build_optimizer(experiment, model, precision)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.schedule = training.schedule.build(training.max_iters)
        self.progress = Progress()
        if start is not None:
            start.load_weights(model)
            start.load_optimizer(self.optimizer, counted)
            if isinstance(self.optimizer, AveragingOptimizer):
                self.optimizer.train()  # a checkpoint has the evaluation weights
            self.progress = start.progress
        self.loss = loss_of(model, compiled=training.compile is True)
        self.compiles = training.compile is True  # the next update compiles, for a minute or more
        self.saver = Saver(run, training, start, observer, clock)
        self.row = self.progress.pending  # the last update's record, until it is complete and written
        self.sample: str | None = None
        self.val_loss: float | None = None

    def train(self) -> Outcome:
        """Train to the end, or until asked to stop.

        Raises:
            DivergedError: A loss or gradient is not finite; the last checkpoint is intact.
            WriteError: The disk is full or failing; the last checkpoint is intact.
            RunError: The run folder was moved or removed, or its records were damaged or replaced.
        """
        self.last_time = time.perf_counter()
        self.others = OtherProcesses()
        self.model.train()
        with self.saver:
            try:
                while True:
                    if self.row is not None:
                        self._complete(self.row)
                    if self.progress.step >= self.experiment.training.max_iters:
                        return self._finished()
                    self._check_stop()
                    self._update()
            except (_Stopped, StopNow):
                self.observer.note("stopping, and saving what is done (once more to stop at once)")
                self._save(best=False)
                return Outcome(Status.STOPPED, self.run, self.progress, stop_signal=self.stop.signal)

    def _finished(self) -> Outcome:
        """The outcome after the last update. The model keeps the evaluation weights, because no update follows."""
        if isinstance(self.optimizer, AveragingOptimizer):
            self.optimizer.eval()
        return Outcome(Status.FINISHED, self.run, self.progress, self.val_loss, self.sample, self.scorer)

    def _check_stop(self) -> None:
        if self.stop.signal is not None:
            raise _Stopped

    # ----------------------------------------------------------------------------------------------------- one update

    def _update(self) -> None:
        """Update the weights once, unless the loss or the gradient is not finite."""
        step = self.progress.step
        progress = step / self.experiment.training.max_iters
        seed_generators(stream_seed(self.experiment.seed, step, _UPDATE), self.device)
        factor = self.schedule.factor(step)
        if not (math.isfinite(factor) and factor >= 0):
            raise DivergedError(
                f"training.schedule: the factor of update {step + 1} is {factor}; it must be finite, 0 or more"
            )
        if factor * max(self.peaks) > LARGEST:
            raise DivergedError(
                f"the learning rate of update {step + 1} is {factor * max(self.peaks):g}: choose a smaller one"
            )
        set_progress(self.model, self.optimizer, self.peaks, factor, progress)
        began = time.perf_counter()
        batch = train_batch(self.corpus, self.experiment, step)
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with self.stop.breakable() if self.compiles else nullcontext():
                measured = compute_gradients(self.model, batch, self.experiment, self.precision, self.loss)
                loss, auxiliary, norm = measured.tolist()  # waits for the device
        except StopNow:
            _restore(buffers)  # the update is repeated on resuming
            raise
        self.compiles = False
        sound = math.isfinite(loss) and math.isfinite(norm)
        in_a_row = 0 if sound else self.progress.skipped_in_a_row + 1
        if sound:
            take_step(self.model, self.optimizer)
        else:
            self._refuse_update(step + 1, loss, norm, in_a_row)
            self.optimizer.zero_grad(set_to_none=True)
            _restore(buffers)
        seconds, n_tokens = time.perf_counter() - began, batch.tokens.numel()
        others = self.others.seconds(now=step + 1 == self.experiment.training.max_iters)
        self.progress = replace(
            self.progress,
            step=step + 1,
            tokens=self.progress.tokens + n_tokens,
            seconds=self.progress.seconds + seconds,
            wall=self._wall(),
            skipped=self.progress.skipped + (not sound),
            skipped_in_a_row=in_a_row,
        )
        self.row = MetricsRow(
            step=step + 1,
            tokens=self.progress.tokens,
            seconds=round(self.progress.seconds, 6),
            wall=round(self.progress.wall, 6),
            train_loss=loss if math.isfinite(loss) else None,
            lr=self.peaks[0] * factor,
            auxiliary_loss=auxiliary if auxiliary and math.isfinite(auxiliary) else None,
            grad_norm=norm if math.isfinite(norm) else None,
            skipped=None if sound else self.progress.skipped,
            tokens_per_second=round(n_tokens / seconds, 1),
            other_cpu=None if others is None else round(others, 3),
        )

    def _refuse_update(self, number: int, loss: float, norm: float, in_a_row: int) -> None:
        """Stop, or skip this update, as the experiment says.

        Raises:
            DivergedError: The experiment says to stop, or too many updates in a row were skipped.
        """
        what = "gradient" if math.isfinite(loss) else "loss"
        reason = f"the {what} of update {number} is not finite (loss {loss}, gradient norm {norm})"
        if self.experiment.training.non_finite == "stop":
            raise DivergedError(f"{reason}: {self._advice()}")
        if in_a_row >= _SKIPPED_IN_A_ROW:
            raise DivergedError(f"{reason}, as of {_SKIPPED_IN_A_ROW} in a row: {self._advice()}")
        self.observer.note(f"{reason}: left out")

    def _advice(self) -> str:
        steps = checkpoint.available(self.run.checkpoints)
        saved = f"the last checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"
        return f"training diverged; {saved}. Try a lower learning_rate, a longer warm-up, or grad_clip (with --fresh)"

    def _wall(self) -> float:
        now = time.perf_counter()
        passed, self.last_time = now - self.last_time, now
        return self.progress.wall + passed

    # ----------------------------------------------------------------------------------- what follows an update

    def _complete(self, row: MetricsRow) -> None:
        """Evaluate, sample and save if they are due, and write the record."""
        if self.saver.has_moved():
            self._save(best=False)  # saves to the new place, and raises
        training, step = self.experiment.training, self.progress.step
        last = step == training.max_iters
        due = last or step % training.eval_interval == 0
        best = False
        if due:
            measured = self._evaluate()
            row = row.model_copy(update=vars(measured))
            best = self.progress.best_val_loss is None or measured.val_loss < self.progress.best_val_loss
        self.saver.metrics.append_row(row)
        self.row = None
        if best:
            self.progress = replace(self.progress, best_step=step, best_val_loss=row.val_loss)
        if last or best or self.saver.is_due(step, evaluated=due):
            self._save(best=best)
        if due:
            self.observer.evaluated(row, best, self.sample)
        else:
            self.observer.updated(row)

    def _evaluate(self) -> Measured:
        """Measure the model and draw a sample from it."""
        self.model.set_progress(self.progress.step / self.experiment.training.max_iters)
        with answering(self.optimizer):
            measured = evaluate(self.scorer, self._report_evaluated)
            step, self.val_loss = self.progress.step, measured.val_loss
            if not math.isfinite(self.val_loss):
                raise DivergedError(f"the validation loss after update {step} is {self.val_loss}: {self._advice()}")
            self.sample = self._draw_sample()
        if self.sample is not None:
            self.saver.samples.append(f"--- step {step}, validation loss {self.val_loss:.4f}\n{self.sample}\n")
        return measured

    def _report_evaluated(self, done: int, total: int) -> None:
        self.observer.evaluating(done, total)
        self._check_stop()

    def _draw_sample(self) -> str | None:
        """A sample of text, drawn with a separate stream of random numbers; None without a tokenizer."""
        tokenizer, sampling = self.corpus.tokenizer, self.experiment.sampling
        if tokenizer is None:
            return None
        seed = stream_seed(self.experiment.seed, self.progress.step, _SAMPLE)
        prompt, sampler = prompt_ids(tokenizer, sampling.prompt), sampling.sampler.build()
        drawn = sample_ids(self.model, prompt, sampler, sampling.max_new_tokens, seed=seed)
        pieces = stream_text((self._unless_stopped(int(ids[0])) for ids in drawn), tokenizer, sampling.stop)
        return sampling.prompt.lstrip("\n") + "".join(pieces)

    def _unless_stopped(self, token: int) -> int:
        self._check_stop()
        return token

    def _save(self, *, best: bool) -> None:
        progress = replace(self.progress, wall=self._wall(), pending=self.row)
        with answering(self.optimizer):
            self._check_weights()
            self.progress = self.saver.save(self.model, self.optimizer, progress, best=best)

    def _check_weights(self) -> None:
        """Refuse to save weights that are not finite: a step may overflow although its gradient was finite.

        Raises:
            DivergedError: A weight is not finite.
        """
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise DivergedError(f"the weight {name} is not finite after update {self.progress.step}: {self._advice()}")


def _restore(buffers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Undo what a forward pass changed in buffers, such as the load of experts: pairs of a buffer and its earlier values."""
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def compute_gradients(
    model: GPT,
    batch: Batch,
    experiment: Experiment,
    precision: str,
    loss_function: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Compute the gradients of one update in micro-batches, and clip them if the experiment says so.

    Args:
        model: Receives the gradients.
        batch: The sequences of one update.
        experiment: Gives the micro-batch size and the clipping.
        precision: `fp32` or `bf16`.
        loss_function: A compiled `model.loss`; None uses the plain one.

    Returns:
        Three numbers, on the device: the batch's cross-entropy in nats per token, the auxiliary losses' mean over
        micro-batches, and the gradient's norm before clipping.
    """
    device = batch.tokens.device
    dtype = wide_dtype(model.dtype)
    total, auxiliary_total = torch.zeros(2, device=device, dtype=dtype).unbind()
    n_targets = batch.n_targets
    for part in batch.split(micro_batch_size(experiment, device, batch.tokens.shape[1])):
        share = part.n_targets / max(n_targets, 1)
        with autocast(precision, device):
            loss, auxiliary = (loss_function or model.loss)(*part.inputs)
        torch.autograd.backward((loss + auxiliary) * share)
        total += loss.detach() * share
        auxiliary_total += auxiliary.detach() * share
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if experiment.training.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, experiment.training.grad_clip, norm)
    return torch.stack((total, auxiliary_total, norm))


def set_progress(
    model: GPT, optimizer: torch.optim.Optimizer, peaks: Sequence[float], factor: float, progress: float
) -> None:
    """Set what changes while training: learning rates, ramps, and the progress that components read.

    Args:
        model: The model.
        optimizer: Its optimizer.
        peaks: The peak learning rate of each group.
        factor: The schedule's factor on them.
        progress: Share of the training that is done.
    """
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * factor
        for key, ramp in group.get("ramps", {}).items():
            group[key] = Ramp.model_validate(ramp).at(progress)
    model.set_progress(progress)


def take_step(model: GPT, optimizer: torch.optim.Optimizer) -> None:
    """Update the weights from their gradients, clear the gradients, and call `after_step`."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.after_step()
