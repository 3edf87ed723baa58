"""A session: from the first preparations, or from a checkpoint, to how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from minigpt.data import Corpus, entropies, train_batch
from minigpt.errors import DivergedError, MinigptError, RunError, WriteError, command_line
from minigpt.experiment import Experiment
from minigpt.model.fp32 import fp32_by_default
from minigpt.run import checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.manifest import accept_edits
from minigpt.run.progress import Progress
from minigpt.run.recorded import Ending
from minigpt.run.status import Status
from minigpt.training.continuing import Asked
from minigpt.training.loop import Outcome, Trainer
from minigpt.training.observer import Observer, PlainObserver, Plan
from minigpt.training.preparing import Ready, prepare_anew, prepare_to_continue
from minigpt.training.stopping import Stop, StopNow, stopped_by_signals


@fp32_by_default()
def train(
    experiment: Experiment,
    *,
    out: str | Path = "runs",
    minutes: float | None = None,
    device: str = "auto",
    threads: int | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
    corpus: Corpus | None = None,
) -> Outcome:
    """Train an experiment from the beginning.

    Args:
        experiment: From `load_experiment`.
        out: Root of the run folders; this one becomes `out/<name>/seed-<n>`.
        minutes: Fit max_iters, and with it the schedule, to this much time from the speed measured on this machine.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: Of the CPU; None leaves torch's choice.
        fresh: Rename a run that is there already, and begin anew; False refuses.
        observer: Told of the progress; None prints plain lines.
        corpus: Train on this one; None loads what the experiment names.

    Returns:
        How it ended. Ctrl-C ends it as `stopped`, saved at the update it had come to.

    Raises:
        RunError: There is a run in the folder already, or another process is at it.
        DataError: The corpus cannot be had.
        ExperimentError: An optimizer that averages weights which the model constrains.
        DivergedError: A loss or gradient was not finite.
    """
    observer, stop = observer or PlainObserver(), Stop()
    run = RunFolder.of(experiment, out)
    with run.locked(), stopped_by_signals(stop):  # from the beginning: what is prepared must be ours to begin
        if not fresh:
            _refuse_existing(run)
        try:
            with stop.breakable():
                ready = prepare_anew(experiment, run, observer, minutes, device, threads, corpus)
        except StopNow:
            return Outcome(Status.STOPPED, run, Progress(), stop_signal=stop.signal)
        kept = run.set_aside() if fresh else None
        if kept:
            observer.note(f"the run that was there is kept as {kept}")
        return _sit(run, observer, stop, ready)


def _refuse_existing(run: RunFolder) -> None:
    if run.checkpoints.exists() and not run.exists():
        raise RunError(f"{run.path} has checkpoints and no experiment.json: it is no run; move it away, or give --fresh")
    if run.exists():
        raise RunError(
            f"{run.path} holds a run already; continue it: {command_line('resume', run.path)}, "
            "or begin another with --name, --seed, --out, or --fresh (which keeps the old one under another name)"
        )


@fp32_by_default()
def resume(
    run: str | Path,
    *,
    overrides: Sequence[str] = (),
    device: str | None = None,
    threads: int | None = None,
    accept_changes: bool = False,
    allow_plugins: bool = True,
    trust: bool = False,
    observer: Observer | None = None,
    corpus: Corpus | None = None,
) -> Outcome:
    """Continue a run that was stopped or killed, bit for bit as if it had not been; or any run, with changes.

    A change that could change the numbers begins another segment of the run, which its provenance records.

    Args:
        run: The run folder.
        overrides: Settings to change, as for `load_experiment`. Each takes effect from here on, or is refused by name.
        device: Where to continue; None is where the run was trained before.
        threads: Of the CPU; None is as many as before.
        accept_changes: Continue although code, data or machine changed.
        allow_plugins: False refuses a run that used plugin files.
        trust: Execute the run's own plugins, and trust them from now on; known ones need no word.
        observer: Told of the progress; None prints plain lines.
        corpus: As for `train`.

    Raises:
        RunError: Nothing to resume, something changed, a setting that is fixed, or another process is at it.
        CheckpointError: No checkpoint of it can be read.
        TrustError: A plugin of the run is not trusted.
    """
    observer, stop = observer or PlainObserver(), Stop()
    folder = RunFolder(Path(run))
    if accept_changes and folder.exists():
        with folder.locked():
            accept_edits(folder.path)
    # Says that there is no run, before a lock is made beside it.
    begun = folder.experiment(allow_plugins=allow_plugins, trust=trust)
    asked = Asked(begun, tuple(overrides), device, threads, accept_changes, allow_plugins)
    with folder.locked(), stopped_by_signals(stop):
        try:
            with stop.breakable():
                ready = prepare_to_continue(folder, observer, asked, corpus)
        except StopNow:
            return Outcome(Status.STOPPED, folder, Progress(), stop_signal=stop.signal)
        return _sit(folder, observer, stop, ready)


def _sit(run: RunFolder, observer: Observer, stop: Stop, ready: Ready) -> Outcome:
    experiment, corpus, model, start = ready.experiment, ready.corpus, ready.model, ready.start
    if ready.begins_with is not None:
        run.begin(experiment, corpus.tokenizer, ready.begins_with)
    if ready.continues_with is not None:
        run.begin_segment(experiment, ready.continues_with)
    run.forget_ending()
    plan = Plan(
        name=experiment.name,
        folder=str(run.path),
        parameters=model.n_parameters(),
        max_iters=experiment.training.max_iters,
        first_step=start.progress.step if start else 0,
        tokens_per_step=train_batch(corpus, experiment, 0).tokens.numel(),
        seconds=ready.seconds,
        device=next(model.parameters()).device.type,
        precision=ready.precision,
        threads=torch.get_num_threads(),
        entropies=entropies(corpus),
        plugin_files=tuple(experiment.plugins),
        experiment=experiment,
    )
    with torch.random.fork_rng():
        trainer = Trainer(
            experiment,
            corpus,
            model,
            precision=ready.precision,
            observer=observer,
            run=run,
            start=start,
            counted=ready.counted,
            stop=stop,
        )
        observer.begin(plan)
        try:
            with _ending_recorded(run):
                return trainer.train()
        except WriteError as error:
            steps = checkpoint.available(run.checkpoints)
            sound = f"the checkpoint of step {steps[-1]} is whole" if steps else "there is no checkpoint yet"
            raise WriteError(
                f"{error}; {sound}. When that is fixed, continue with: {command_line('resume', run.path)}"
            ) from error
        finally:
            observer.end()


@contextmanager
def _ending_recorded(run: RunFolder) -> Iterator[None]:
    """Write down that a run diverged or crashed; that it was stopped, or could not be written, its folder shows."""
    try:
        yield
    except (WriteError, RunError):  # the folder is not what it was: nothing is to be written there
        raise
    except Exception as error:  # a part may raise anything, and that is how the run ended
        diverged = isinstance(error, DivergedError)
        message = str(error) if isinstance(error, MinigptError) else f"{type(error).__name__}: {error}"
        with suppress(WriteError):  # what happened is to be reported, and not that this could not be noted
            run.record_ending(Ending(status=Status.DIVERGED if diverged else Status.CRASHED, message=message))
        raise
