"""One variant with one seed, in a process of its own: train it or continue it, measure it, and report how it ended.

Whatever happens here, the comparison continues: what ends the process without a record is reported by its exit code.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from minigpt.data import Corpus
from minigpt.errors import DivergedError, MinigptError, PlanError
from minigpt.experiment import Experiment
from minigpt.lab.compare.frozen import frozen_corpus, frozen_experiment
from minigpt.lab.compare.job import CellRecord, Ending, Job, updates_in
from minigpt.model import GPT
from minigpt.run import RunFolder, open_run
from minigpt.run.identity import Identity
from minigpt.run.provenance import provenance
from minigpt.run.status import Status
from minigpt.training import PlainObserver, resume, train
from minigpt.training.machine import choose_device, micro_batch_size

_LOOK_EVERY, _SAY_EVERY = 0.2, 10.0


def do(job: Job) -> CellRecord:
    """Train, measure, and record whatever happens.

    Raises:
        PlanError: It cannot be trained as planned: that is no outcome.
    """
    try:
        experiment = frozen_experiment(job.experiment, job.seed, allow_plugins=job.allow_plugins)
        corpus = frozen_corpus(job.corpus, experiment)
        _train(job, experiment, corpus)
        return _record(job, Status.FINISHED, position_loss=_loss_by_position(job, corpus))
    except PlanError:
        raise
    except DivergedError as error:
        return _record(job, Status.DIVERGED, str(error))
    except Exception as error:  # a plugin may raise anything, and whatever it is is the outcome
        traceback.print_exc()
        text = str(error).splitlines()
        said = text[0] if isinstance(error, MinigptError) and text else f"{type(error).__name__}: {text[0] if text else ''}"
        return _record(job, Status.CRASHED, said)


def _record(job: Job, outcome: Ending, message: str = "", position_loss: Sequence[float | None] = ()) -> CellRecord:
    return CellRecord(
        key=job.key,
        run=str(job.run),
        outcome=outcome,
        message=message,
        updates=updates_in(RunFolder(job.run)),
        position_loss=tuple(position_loss),
    )


def _train(job: Job, experiment: Experiment, corpus: Corpus) -> None:
    run = RunFolder(job.run)
    while run.is_in_use():  # by a process of a grid that was killed, which is saving
        time.sleep(_LOOK_EVERY)
    if run.is_finished():
        return
    _check_as_planned(job, experiment, corpus)
    if run.exists():
        outcome = resume(run.path, allow_plugins=job.allow_plugins, observer=_Alive(), corpus=corpus)
    else:
        out = run.path.parents[1]
        assert RunFolder.of(experiment, out) == run
        device, threads = job.device, job.threads
        outcome = train(experiment, out=out, device=device, threads=threads, observer=_Alive(), corpus=corpus)
    if outcome.status is Status.STOPPED:
        sys.exit(128 + (outcome.stop_signal or signal.SIGTERM))


def _check_as_planned(job: Job, experiment: Experiment, corpus: Corpus) -> None:
    """Experiment, plugins and corpus are the plan's own copies; what is left is the source of everything else.

    Raises:
        PlanError: It is not what it was when the plan was made.
    """
    device, precision = choose_device(job.device), experiment.training.precision
    now = provenance(experiment, corpus, device=device, precision=precision)
    if Identity.of(now).digest() != job.key:
        raise PlanError(
            f"{experiment.name}, seed {job.seed}: the source of minigpt, or of an installed plugin, was edited since the "
            "plan was made; give the same command again for a new plan"
        )


class _Alive(PlainObserver):
    """Lines for the log, and more of them in a long evaluation: a log that does not grow is that of a process that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def evaluating(self, done: int, total: int) -> None:
        """A line now and then."""
        if time.monotonic() - self.last > _SAY_EVERY:
            self.last = time.monotonic()
            self.note(f"evaluated {done:,} of {total:,} targets")


def _loss_by_position(job: Job, corpus: Corpus) -> list[float | None]:
    opened = open_run(job.run, which="last", allow_plugins=job.allow_plugins)
    return loss_by_position(opened.model, corpus, opened.experiment)


@torch.no_grad()
def loss_by_position(model: GPT, corpus: Corpus, experiment: Experiment) -> list[float | None]:
    """Mean validation loss at each place in the window, in fp32: what is it worth to have seen so many tokens before?

    Args:
        model: In eval mode, on the CPU.
        corpus: Likewise.
        experiment: For the window.

    Returns:
        Nats for each of block_size places; None where no target counts.
    """
    length = experiment.model.block_size
    sums, counts = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.int64)
    for batch in corpus.val.windows(micro_batch_size(experiment, torch.device("cpu")), length):
        logits = model(batch.tokens)
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view_as(batch.targets)
        counted = torch.ones_like(batch.targets, dtype=torch.bool) if batch.mask is None else batch.mask
        time = batch.targets.shape[1]
        sums[:time] += (losses.double() * counted).sum(0)
        counts[:time] += counted.sum(0)
    return [total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]
