"""A sitting: set everything up, train, and say how it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minigpt.contracts import Tokenizer
from minigpt.data import Corpus, entropies, load_corpus, train_batch
from minigpt.decoding import prompt_ids
from minigpt.errors import RunError, TokenizerError, WriteError, count
from minigpt.experiment import Experiment
from minigpt.model import GPT, build_model, build_model_on_meta
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Checkpoint, Progress
from minigpt.run.folder import RunFolder
from minigpt.run.identity import differing
from minigpt.run.provenance import changed_since, provenance
from minigpt.run.segments import continued, refuse_beyond, refuse_fixed
from minigpt.training.averaging import refuse_constrained_weights
from minigpt.training.compiling import PAYS_AFTER, is_faster, missing_compiler
from minigpt.training.continuing import (
    Asked,
    changed_settings,
    form_of_optimizer,
    refuse_other_form,
    refuse_other_vocabulary,
    refuse_unasked,
)
from minigpt.training.estimate import Speed, measure_speed
from minigpt.training.fitting import refuse_what_cannot_fit
from minigpt.training.loop import Outcome, Trainer
from minigpt.training.machine import choose_device, choose_precision, is_present, use_threads
from minigpt.training.observer import Observer, PlainObserver, Plan
from minigpt.training.stopping import Stop, StopNow, stopped_by_signals


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
    observer, stop = observer or PlainObserver(), Stop()
    run = RunFolder.of(experiment, out)
    with run.locked(), stopped_by_signals(stop):  # from the beginning: what is prepared must be ours to begin
        if not fresh:
            _refuse_existing(run)
        try:
            with stop.breakable():
                ready = _prepare_anew(experiment, run, observer, minutes, device, threads)
        except StopNow:
            return Outcome("stopped", run, Progress(), stop_signal=stop.signal)
        kept = run.set_aside() if fresh else None
        if kept:
            observer.note(f"the run that was there is kept as {kept}")
        return _sit(run, observer, stop, ready)


def _prepare_anew(
    experiment: Experiment,
    run: RunFolder,
    observer: Observer,
    minutes: float | None,
    device: str,
    threads: int | None,
) -> _Ready:
    """Everything that comes before a run is begun; nothing is written yet."""
    observer.note(f"preparing {experiment.name}: corpus, model, speed of this machine")
    where, precision = _machine(experiment.training.precision, device, threads)
    corpus = load_corpus(experiment).to(where)
    if corpus.tokenizer is not None:
        _check_prompt(corpus.tokenizer, experiment.sampling.prompt)
    refuse_what_cannot_fit(experiment, corpus, run.path, where, precision)
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
    found = provenance(experiment, corpus, device=where, precision=precision)
    return _Ready(experiment, corpus, model, precision, speed.seconds(experiment), begins_with=found)


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
    overrides: Sequence[str] = (),
    device: str | None = None,
    threads: int | None = None,
    accept_changes: bool = False,
    allow_plugins: bool = True,
    observer: Observer | None = None,
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
        observer: Told of the progress; None prints plain lines.

    Raises:
        RunError: Nothing to resume, something changed, a setting that is fixed, or another process is at it.
        CheckpointError: No checkpoint of it can be read.
    """
    observer, stop = observer or PlainObserver(), Stop()
    folder = RunFolder(Path(run))
    begun = folder.experiment(allow_plugins=allow_plugins)  # says that there is no run, before a lock is made beside it
    asked = Asked(begun, tuple(overrides), device, threads, accept_changes, allow_plugins)
    with folder.locked(), stopped_by_signals(stop):
        try:
            with stop.breakable():
                ready = _prepare_to_go_on(folder, observer, asked)
        except StopNow:
            return Outcome("stopped", folder, Progress(), stop_signal=stop.signal)
        return _sit(folder, observer, stop, ready)


def _prepare_to_go_on(folder: RunFolder, observer: Observer, asked: Asked) -> _Ready:
    recorded = folder.provenance()
    overrides = [*folder.moved_data(), *asked.overrides]
    experiment = folder.experiment(overrides, allow_plugins=asked.allow_plugins)
    folder.check_links()
    where, precision = _machine_again(folder, experiment.training.precision, recorded["machine"], asked)
    experiment = _with_training(experiment, {"precision": precision})
    refuse_fixed(str(folder.path), changed_settings(recorded, asked.begun, experiment))
    start = _start_of(folder, experiment)
    step = start.progress.step if start else 0
    corpus = load_corpus(experiment, folder.learned()).to(where)
    refuse_other_vocabulary(folder, corpus)
    now = provenance(experiment, corpus, device=where, precision=precision)
    refuse_unasked(folder, asked, changed_since(recorded, now))
    for note in start.notes if start else ():
        observer.note(note)
    there = len(checkpoint.available(folder.checkpoints))
    refuse_what_cannot_fit(experiment, corpus, folder.path, where, precision, checkpoints=there)
    model = build_model(experiment, corpus.vocab_size).to(where)
    compiled, speed = _choose_compile(experiment, corpus, model, precision, None, observer)
    experiment = _with_training(experiment, {"compile": compiled})
    now["experiment"]["training"]["compile"] = compiled
    changes = changed_since(recorded, now)
    form = form_of_optimizer(experiment, corpus, model, precision) if changes and start else None
    if start is not None and form is not None:
        refuse_other_form(folder, start, form, changes)
    if start is not None:
        start.check_optimizer(speed.state)
    for change in changes:
        observer.note(f"changed: {change.line}")
    if any(change.what == "training.max_iters" for change in changes):
        observer.note(f"from here on the schedule is the one over {count(experiment.training.max_iters, 'update')}")
    if changes:
        observer.note(f"from update {step:,} on this is another segment of the run, and compare will not use the run")
        now = continued(recorded, now, changes, step)
    left_out = differing(asked.begun.to_json(), experiment.to_json())
    return _Ready(
        experiment,
        corpus,
        model,
        precision,
        speed.seconds(experiment, step),
        start=start,
        counted=form.counted if form else None,
        continues_with=now if changes else recorded if left_out else None,
    )


def _start_of(folder: RunFolder, experiment: Experiment) -> Checkpoint | None:
    """The checkpoint to continue from; None where there is none yet."""
    shapes = build_model_on_meta(experiment.model, folder.vocab_size())
    start, max_iters = checkpoint.load(folder.checkpoints, "last", shapes), experiment.training.max_iters
    step = start.progress.step if start else 0
    refuse_beyond(str(folder.path), max_iters, step)
    if start is not None and step == max_iters and start.progress.pending is None:
        raise RunError(
            f"{folder.path} is finished (step {step}); try: minigpt generate {folder.path}, "
            f"or train it further: minigpt resume {folder.path} --set training.max_iters={2 * step}"
        )
    return start


def _machine_again(folder: RunFolder, precision: str, machine: dict[str, Any], asked: Asked) -> tuple[torch.device, str]:
    """Device and precision to continue with: those of before, or others that were asked for."""
    wish = asked.device or machine["device"]
    if asked.device is None and not is_present(wish):
        raise RunError(
            f"{folder.path} was trained on {wish}, which is not here. To continue elsewhere, not bit for bit: "
            f"minigpt resume {folder.path} --device auto"
        )
    return _machine(precision, wish, asked.threads or machine["threads"])


def _refuse_existing(run: RunFolder) -> None:
    if run.checkpoints.exists() and not run.exists():
        raise RunError(f"{run.path} has checkpoints and no experiment.json: it is no run; move it away, or give --fresh")
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
        use_threads(threads)
    where = choose_device(device)
    return where, choose_precision(precision, where)


@dataclass(frozen=True)
class _Ready:
    """Everything that a sitting needs.

    Attributes:
        experiment: As it will be trained.
        corpus: On the device.
        model: Likewise.
        precision: `fp32` or `bf16`.
        seconds: About how long it will take.
        start: The checkpoint to go on from; None at the beginning.
        begins_with: The provenance of a run that is about to begin; None for one that is there.
        counted: As for the Trainer.
        continues_with: The provenance of a run that is continued with other settings; None where there is none to write.
    """

    experiment: Experiment
    corpus: Corpus
    model: GPT
    precision: str
    seconds: float
    start: Checkpoint | None = None
    begins_with: dict[str, Any] | None = None
    counted: Sequence[frozenset[str]] | None = None
    continues_with: dict[str, Any] | None = None


def _sit(run: RunFolder, observer: Observer, stop: Stop, ready: _Ready) -> Outcome:
    experiment, corpus, model, start = ready.experiment, ready.corpus, ready.model, ready.start
    if ready.begins_with is not None:
        run.begin(experiment, corpus.tokenizer, ready.begins_with)
    if ready.continues_with is not None:
        run.begin_segment(experiment, ready.continues_with)
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
            return trainer.train()
        except WriteError as error:
            steps = checkpoint.available(run.checkpoints)
            sound = f"the checkpoint of step {steps[-1]} is whole" if steps else "there is no checkpoint yet"
            raise WriteError(f"{error}; {sound}. When that is mended, go on with: minigpt resume {run.path}") from error
        finally:
            observer.end()
