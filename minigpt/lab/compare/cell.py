"""One variant with one seed, in a process of its own: train it or go on with it, measure it, and leave a record.

    python -m minigpt.lab.compare.cell JOB.json

Whatever happens here, the comparison goes on: what ends the process without a record is told from its exit code.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from minigpt.data import Corpus
from minigpt.errors import DivergedError, MinigptError, PlanError
from minigpt.experiment import Experiment
from minigpt.lab.compare.frozen import frozen_corpus, frozen_experiment
from minigpt.lab.compare.grid import present
from minigpt.lab.compare.job import SAVES_WITHIN, CellRecord, Ending, Job, updates_in
from minigpt.model import GPT
from minigpt.run import RunFolder, open_run
from minigpt.run.identity import Identity
from minigpt.run.status import Status
from minigpt.system.files import write_json
from minigpt.training import PlainObserver, resume, train
from minigpt.training.machine import choose_device, micro_batch_size

_LOOK_EVERY, _SAY_EVERY = 0.2, 10.0


def main() -> None:
    """Do the job in the file that the command line names."""
    job = Job.read(Path(sys.argv[1]))
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        do(job)
    except PlanError as error:
        write_json(job.refusal, {"message": str(error)})
        sys.exit(2)


def do(job: Job) -> None:
    """Train, measure, and write the record, whatever happens.

    Raises:
        PlanError: It cannot be trained as planned: that is no outcome.
    """
    try:
        experiment = frozen_experiment(job.experiment, job.seed, allow_plugins=job.allow_plugins)
        corpus = frozen_corpus(job.corpus, experiment)
        _train(job, experiment, corpus)
        record = _record(job, Status.FINISHED, position_loss=_loss_by_position(job, corpus))
    except PlanError:
        raise
    except DivergedError as error:
        record = _record(job, Status.DIVERGED, str(error))
    except Exception as error:  # a plugin may raise anything, and whatever it is is the outcome
        traceback.print_exc()
        text = str(error).splitlines()
        said = text[0] if isinstance(error, MinigptError) and text else f"{type(error).__name__}: {text[0] if text else ''}"
        record = _record(job, Status.CRASHED, said)
    record.write(job.record)


def _record(job: Job, outcome: Ending, message: str = "", position_loss: Sequence[float | None] = ()) -> CellRecord:
    return CellRecord(
        key=job.key,
        run=str(job.run),
        outcome=outcome,
        message=message,
        updates=updates_in(RunFolder(job.run)),
        position_loss=tuple(position_loss),
    )


def _stop_with_parent() -> None:
    """The parent holds the other end of standard input; when it is gone, save and stop, and do not hang over that.

    The descriptor is read, and not `sys.stdin`: a thread that waits in that one holds its lock, and the interpreter, which
    wants it when it ends, would abort.
    """
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVES_WITHIN)
    os.kill(os.getpid(), signal.SIGKILL)


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
    now = present(experiment, corpus, choose_device(job.device))
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


if __name__ == "__main__":
    main()
