"""Training sessions: begin a run, or resume it from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from minigpt.data import Corpus, entropies, sequence_length, tokens_trained
from minigpt.errors import DivergedError, MinigptError, RunError, WriteError, command_line
from minigpt.experiment import Experiment
from minigpt.model.torch_state import usual_torch_state
from minigpt.reading import Reading
from minigpt.run import checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.manifest import accept_edits
from minigpt.run.progress import Progress
from minigpt.run.recorded import Ending
from minigpt.run.status import Status
from minigpt.training.continuing import ResumeRequest
from minigpt.training.loop import Outcome, Trainer
from minigpt.training.observer import Observer, PlainObserver, Plan
from minigpt.training.preparing import Ready, prepare_anew, prepare_to_continue
from minigpt.training.stopping import Stop, StopNow, stopped_by_signals


@usual_torch_state()
def train(
    experiment: Experiment,
    *,
    out: str | Path = "runs",
    minutes: float | None = None,
    device: str = "auto",
    threads: int | None = None,
    fresh: bool = False,
    allow_plugins: bool = True,
    trust: bool = False,
    observer: Observer | None = None,
    corpus: Corpus | None = None,
) -> Outcome:
    """Train an experiment from the beginning.

    Args:
        experiment: From `load_experiment`.
        out: Root of the run folders; this one becomes `out/<name>/seed-<n>`.
        minutes: Set max_iters, and with it the length of the schedule, so that training takes this long on this machine.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: Number of CPU threads; None leaves torch's choice.
        fresh: Rename an existing run and begin a new one; False refuses.
        allow_plugins: False refuses to learn from a run that used plugin files.
        trust: Execute the plugins of such a run, and trust them from now on; not needed for trusted plugins.
        observer: Notified of the progress; None prints plain lines.
        corpus: The corpus to train on; None loads the experiment's corpus.

    Returns:
        How the session ended. Ctrl-C ends it as `stopped`, saved after its last update.

    Raises:
        RunError: The folder has a run already, or another process uses it.
        DataError: The corpus cannot be loaded.
        ExperimentError: The optimizer averages weights that the model constrains.
        DivergedError: A loss or gradient was not finite.
    """
    observer, stop = observer or PlainObserver(), Stop()
    run = RunFolder.of(experiment, out)
    with run.locked(), stopped_by_signals(stop):  # locked before preparing, so that no other process begins the run
        if not fresh:
            _refuse_existing(run)
        try:
            with stop.breakable():
                ready = prepare_anew(
                    experiment, run, observer, minutes, device, threads, corpus, Reading((), (), allow_plugins, trust)
                )
        except StopNow:
            return Outcome(Status.STOPPED, run, Progress(), stop_signal=stop.signal)
        kept = run.set_aside() if fresh else None
        if kept:
            observer.note(f"the earlier run is kept as {kept}")
        return _run_session(run, observer, stop, ready)


def _refuse_existing(run: RunFolder) -> None:
    if run.checkpoints.exists() and not run.exists():
        raise RunError(f"{run.path} has checkpoints and no experiment.json: it is not a run; move it away, or give --fresh")
    if run.exists():
        raise RunError(
            f"{run.path} holds a run already; continue it: {command_line('resume', run.path)}, "
            "or begin another with --name, --seed, --out, or --fresh (which keeps the old one under another name)"
        )


@usual_torch_state()
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
    """Continue a stopped or killed run bit for bit, or any run with changes.

    A change that could change the numbers begins another segment of the run, which its provenance records.

    Args:
        run: The run folder.
        overrides: Settings to change, as for `load_experiment`. Each takes effect from now on, or is refused by name.
        device: Where to continue; None uses the device of the last session.
        threads: Number of CPU threads; None uses the number of the last session.
        accept_changes: Continue although code, data or machine changed.
        allow_plugins: False refuses a run that used plugin files.
        trust: Execute the run's own plugins, and trust them from now on; not needed for trusted plugins.
        observer: Notified of the progress; None prints plain lines.
        corpus: As for `train`.

    Raises:
        RunError: There is nothing to resume, something changed, a fixed setting was overridden, or another process uses
            the folder.
        CheckpointError: No checkpoint of the run can be read.
        TrustError: A plugin of the run is not trusted.
    """
    observer, stop = observer or PlainObserver(), Stop()
    folder = RunFolder(Path(run))
    if accept_changes and folder.exists():
        with folder.locked():
            accept_edits(folder.path)
    # Reads the experiment before locking: if there is no run, the error comes before a lock file is written.
    reading = Reading(tuple(overrides), allow_plugins=allow_plugins, trust=trust)
    begun = folder.experiment(reading.as_recorded())
    asked = ResumeRequest(begun, reading, device, threads, accept_changes)
    with folder.locked(), stopped_by_signals(stop):
        try:
            with stop.breakable():
                ready = prepare_to_continue(folder, observer, asked, corpus)
        except StopNow:
            return Outcome(Status.STOPPED, folder, Progress(), stop_signal=stop.signal)
        return _run_session(folder, observer, stop, ready)


def _run_session(run: RunFolder, observer: Observer, stop: Stop, ready: Ready) -> Outcome:
    """Write the run's first records, and train."""
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
        tokens=tokens_trained(experiment, sequence_length(corpus, experiment), start.progress.step if start else 0),
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
            saved = f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no checkpoint yet"
            raise WriteError(
                f"{error}; {saved}. When that is fixed, continue with: {command_line('resume', run.path)}"
            ) from error
        finally:
            observer.end()


@contextmanager
def _ending_recorded(run: RunFolder) -> Iterator[None]:
    """Record in the run folder that a session diverged or crashed."""
    try:
        yield
    except (WriteError, RunError):  # the folder cannot be written, or was changed: write nothing more
        raise
    except Exception as error:  # a component may raise anything
        diverged = isinstance(error, DivergedError)
        message = str(error) if isinstance(error, MinigptError) else f"{type(error).__name__}: {error}"
        with suppress(WriteError):  # report the original error, even if it cannot be recorded
            run.record_ending(Ending(status=Status.DIVERGED if diverged else Status.CRASHED, message=message))
        raise
