"""A sitting: set everything up, train, and answer signals by finishing the update and saving."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from minigpt.contracts import Tokenizer
from minigpt.data import Corpus, entropies, load_corpus, train_batch
from minigpt.decoding import prompt_ids
from minigpt.errors import RunError, TokenizerError, count
from minigpt.experiment import Experiment
from minigpt.model import GPT, build_model
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.provenance import changed_since, provenance
from minigpt.training.averaging import refuse_constrained_weights
from minigpt.training.compiling import PAYS_AFTER, is_faster, missing_compiler
from minigpt.training.estimate import Speed, measure_speed
from minigpt.training.loop import Outcome, Trainer
from minigpt.training.machine import choose_device, choose_precision
from minigpt.training.observer import Observer, PlainObserver, Plan


def train(
    experiment: Experiment,
    *,
    out: str | Path = "runs",
    minutes: float | None = None,
    device: str = "auto",
    threads: int | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
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

    Returns:
        How it ended. Ctrl-C ends it as `stopped`, saved at the update it had come to.

    Raises:
        RunError: There is a run in the folder already, or another process is at it.
        DataError: The corpus cannot be had.
        ExperimentError: An optimizer that averages weights which the model constrains.
        DivergedError: A loss or gradient was not finite.
    """
    observer = observer or PlainObserver()
    run = RunFolder.of(experiment, out)
    if not fresh:
        _refuse_existing(run)
    observer.note(f"preparing {experiment.name}: corpus, model, speed of this machine")
    where, precision = _machine(experiment.training.precision, device, threads)
    corpus = load_corpus(experiment).to(where)
    if corpus.tokenizer is not None:
        _check_prompt(corpus.tokenizer, experiment.sampling.prompt)
    model = build_model(experiment, corpus.vocab_size).to(where)
    refuse_constrained_weights(experiment, model)
    compiled, speed = _choose_compile(experiment, corpus, model, precision, minutes, observer)
    settled: dict[str, Any] = {"precision": precision, "compile": compiled}
    if minutes is not None:
        settled["max_iters"] = speed.updates_within(experiment, minutes * 60)
        observer.note(f"{minutes:g} min here are {count(settled['max_iters'], 'update')}")
    experiment = _with_training(experiment, settled)
    for spec in experiment.specs():
        if spec.cls.__module__ == "__main__":
            observer.note(
                f"{spec.family} {spec.name} is not in a file: only this process can open the run; a plugin file mends that"
            )
    kept = run.set_aside() if fresh else None
    if kept:
        observer.note(f"the run that was there is kept as {kept}")
    with run.locked():
        _refuse_existing(run)
        run.begin(experiment, corpus.tokenizer, provenance(experiment, corpus, device=where, precision=precision))
        return _sit(experiment, corpus, model, precision, observer, run, None, speed.seconds(experiment))


def _choose_compile(
    experiment: Experiment, corpus: Corpus, model: GPT, precision: str, minutes: float | None, observer: Observer
) -> tuple[bool, Speed]:
    """Whether to compile, and how fast training is then.

    Raises:
        RunError: It is asked for, and there is no compiler.
    """
    wish, device = experiment.training.compile, model.embedding.weight.device
    missing = missing_compiler(device)
    if wish is True and missing:
        raise RunError(f'training.compile: {missing}; install one, or set it to false or "auto"')
    speed = measure_speed(experiment, corpus, model, precision, compiled=wish is True)
    if wish != "auto":
        return wish, speed
    seconds = speed.seconds(experiment) if minutes is None else minutes * 60
    if seconds < PAYS_AFTER.get(device.type, math.inf):
        return False, speed
    if missing:
        observer.note(f"torch.compile is left out: {missing}")
        return False, speed
    from torch._dynamo.exc import TorchDynamoException  # a second to import, so not before it is needed

    observer.note("compiling the model, to see whether it is faster then")
    try:
        tried = measure_speed(experiment, corpus, model, precision, compiled=True)
    except TorchDynamoException as error:
        observer.note(f"torch.compile is left out: it cannot compile this model ({type(error).__name__})")
        return False, speed
    faster = is_faster(tried.update, speed.update)
    observer.note(f"compiled, an update takes {tried.update / speed.update:.2f} of the time: {'' if faster else 'not '}used")
    return (True, tried) if faster else (False, speed)


def _with_training(experiment: Experiment, changes: dict[str, Any]) -> Experiment:
    """The experiment with settings that were found out on this machine."""
    # A copy and no new reading: a component stays the class it was, whatever has been registered since.
    training = experiment.training.model_copy(update=changes)
    training.schedule.at("training.schedule").build(training.max_iters)
    return experiment.model_copy(update={"training": training})


def resume(
    run: str | Path,
    *,
    accept_changes: bool = False,
    allow_plugins: bool = True,
    observer: Observer | None = None,
) -> Outcome:
    """Go on with a run that was stopped or killed, bit for bit as if it had not been.

    Args:
        run: The run folder.
        accept_changes: Go on although code, data or machine changed; the run is no longer reproducible then.
        allow_plugins: False refuses a run that used plugin files.
        observer: Told of the progress; None prints plain lines.

    Raises:
        RunError: Nothing to resume, something changed, or another process is at it.
        CheckpointError: No checkpoint of it can be read.
    """
    observer = observer or PlainObserver()
    folder = RunFolder(Path(run))
    experiment = folder.experiment(allow_plugins=allow_plugins)
    recorded = folder.provenance()
    machine = recorded["machine"]
    where, precision = _machine(recorded["precision"], machine["device"], machine["threads"])
    with folder.locked():
        start = checkpoint.load(folder.checkpoints, "last")
        if start is not None and start.progress.step >= experiment.training.max_iters and start.progress.pending is None:
            raise RunError(f"{folder.path} is finished (step {start.progress.step}); try: minigpt generate {folder.path}")
        corpus = load_corpus(experiment, folder.learned()).to(where)
        changes = changed_since(recorded, provenance(experiment, corpus, device=where, precision=precision))
        if changes and not accept_changes:
            raise RunError(
                f"{folder.path} cannot be continued exactly, for these changed: {'; '.join(changes)}. "
                "Undo that, or give up exactness with --accept-changes"
            )
        for note in (*(f"changed: {line}" for line in changes), *(start.notes if start else ())):
            observer.note(note)
        model = build_model(experiment, corpus.vocab_size).to(where)
        speed = measure_speed(experiment, corpus, model, precision, compiled=experiment.training.compile is True)
        seconds = speed.seconds(experiment, start.progress.step if start else 0)
        return _sit(experiment, corpus, model, precision, observer, folder, start, seconds)


def _refuse_existing(run: RunFolder) -> None:
    if run.exists():
        raise RunError(
            f"{run.path} holds a run already; go on with it: minigpt resume {run.path}, "
            "or begin another with --name, --seed, --out, or --fresh (which keeps the old one under another name)"
        )


def _check_prompt(tokenizer: Tokenizer, prompt: str) -> None:
    """Find out before training, and not at its first sample."""
    try:
        prompt_ids(tokenizer, prompt)
    except TokenizerError as error:
        raise TokenizerError(f"sampling.prompt: {error}") from error


def _machine(precision: str, device: str, threads: int | None) -> tuple[torch.device, str]:
    if threads is not None:
        torch.set_num_threads(threads)
    where = choose_device(device)
    return where, choose_precision(precision, where)


def _sit(
    experiment: Experiment,
    corpus: Corpus,
    model: GPT,
    precision: str,
    observer: Observer,
    run: RunFolder,
    start: Checkpoint | None,
    seconds: float,
) -> Outcome:
    training = experiment.training
    plan = Plan(
        name=experiment.name,
        folder=str(run.path),
        parameters=model.n_parameters(),
        max_iters=training.max_iters,
        first_step=start.progress.step if start else 0,
        tokens_per_step=train_batch(corpus, experiment, 0).tokens.numel(),
        seconds=seconds,
        device=next(model.parameters()).device.type,
        precision=precision,
        threads=torch.get_num_threads(),
        entropies=entropies(corpus),
        plugin_files=tuple(experiment.plugins),
    )
    with torch.random.fork_rng():
        trainer = Trainer(experiment, corpus, model, precision=precision, observer=observer, run=run, start=start)
        observer.begin(plan)
        try:
            with _signals_stop(trainer, observer):
                return trainer.train()
        finally:
            observer.end()


@contextmanager
def _signals_stop(trainer: Trainer, observer: Observer) -> Iterator[None]:
    """SIGINT and SIGTERM ask the trainer to stop; a second one ends the process at once, which loses nothing saved."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if trainer.stop_signal is not None:
            signal.signal(number, before[number])
            signal.raise_signal(number)
        trainer.stop_signal = number
        observer.note("stopping: finishing this update and saving (once more to stop at once)")

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for stopped, handler in before.items():
            signal.signal(stopped, handler)
