"""The process of a cell (one variant with one seed): train or continue the run, measure it, record the outcome.

A failure here does not end the comparison. If the process ends without a record, its exit code is reported.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback

from minigpt.check.after_training import check_after_training
from minigpt.data import Corpus
from minigpt.errors import DivergedError, MinigptError, PlanError
from minigpt.experiment import Experiment
from minigpt.lab.compare.blocks import Measured, measure
from minigpt.lab.compare.frozen import frozen_corpus, frozen_experiment
from minigpt.lab.compare.job import CellOutcome, CellRecord, Job, updates_in
from minigpt.run import ModelCheck, RunFolder, open_run
from minigpt.run.identity import Identity
from minigpt.run.provenance import provenance
from minigpt.run.status import Status
from minigpt.training import Outcome, PlainObserver, resume, train
from minigpt.training.machine import choose_device

_POLL_SECONDS, _NOTE_SECONDS = 0.2, 10.0


def do(job: Job) -> CellRecord:
    """Train and measure a cell, and return a record of how that ended.

    Raises:
        PlanError: The cell cannot be trained as planned, which is not an outcome.
    """
    try:
        experiment = frozen_experiment(job.experiment, job.seed, allow_plugins=job.allow_plugins)
        corpus = frozen_corpus(job.corpus, experiment)
        checked = _check(job, experiment, corpus, _train(job, experiment, corpus))
        if checked.reason is not None:
            return _record(job, Status.VIOLATED, checked.reason)
        return _record(job, Status.FINISHED, measured=_measured(job, corpus))
    except PlanError:
        raise
    except DivergedError as error:
        return _record(job, Status.DIVERGED, str(error))
    except Exception as error:  # a plugin may raise any error; then the run has crashed
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        message = first if isinstance(error, MinigptError) and first else f"{type(error).__name__}: {first}"
        return _record(job, Status.CRASHED, message)


def _record(job: Job, outcome: CellOutcome, message: str = "", measured: Measured | None = None) -> CellRecord:
    return CellRecord(
        key=job.key,
        run=str(job.run),
        outcome=outcome,
        message=message,
        updates=updates_in(RunFolder(job.run)),
        position_loss=() if measured is None else measured.position_loss,
        blocks=None if measured is None else measured.blocks,
    )


def _train(job: Job, experiment: Experiment, corpus: Corpus) -> Outcome | None:
    """Train or continue the run; None if it is finished already."""
    run = RunFolder(job.run)
    while run.is_in_use():  # by a process of a killed comparison, which is still saving
        time.sleep(_POLL_SECONDS)
    if run.is_finished():
        return None
    _check_as_planned(job, experiment, corpus)
    if run.exists():
        outcome = resume(run.path, allow_plugins=job.allow_plugins, observer=_Alive(), corpus=corpus)
    else:
        out = run.path.parents[1]
        assert RunFolder.of(experiment, out) == run
        outcome = train(
            experiment,
            out=out,
            device=job.device,
            threads=job.threads,
            allow_plugins=job.allow_plugins,
            observer=_Alive(),
            corpus=corpus,
        )
    if outcome.status is Status.STOPPED:
        sys.exit(128 + (outcome.stop_signal or signal.SIGTERM))
    return outcome


def _check(job: Job, experiment: Experiment, corpus: Corpus, outcome: Outcome | None) -> ModelCheck:
    """The check of the trained model: the recorded one, if the run was finished before and holds."""
    run = RunFolder(job.run)
    if outcome is None or outcome.scorer is None:
        known = run.model_check()
        return known if known and known.violation is None else check_after_training(run, experiment, corpus)
    return check_after_training(run, outcome.scorer.experiment, outcome.scorer.corpus, outcome.scorer.model)


def _check_as_planned(job: Job, experiment: Experiment, corpus: Corpus) -> None:
    """Check that the run has the planned identity.

    Experiment, plugins and corpus are the plan's own copies. So only the source of everything else can have changed.

    Raises:
        PlanError: The source has changed since the plan was made.
    """
    device, precision = choose_device(job.device), experiment.training.precision
    now = provenance(experiment, corpus, device=device, precision=precision)
    if Identity.of(now).digest() != job.key:
        raise PlanError(
            f"{experiment.name}, seed {job.seed}: the source of minigpt, or of a module that a plugin imports, was edited "
            "since the plan was made, or two plugins have modules of one name. Rename such modules, or run the same command "
            "again to make a new plan"
        )


class _Alive(PlainObserver):
    """Writes to the log also during a long evaluation, because a process whose log does not grow counts as hung."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def evaluating(self, done: int, total: int) -> None:
        """Write a line every few seconds."""
        if time.monotonic() - self.last > _NOTE_SECONDS:
            self.last = time.monotonic()
            self.note(f"evaluated {done:,} of {total:,} targets")


def _measured(job: Job, corpus: Corpus) -> Measured:
    opened = open_run(job.run, which="last", allow_plugins=job.allow_plugins)
    return measure(opened.model, corpus, opened.experiment)
