"""Prepare a session: load the corpus, choose the settings for this machine, and check the request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from minigpt.contracts import Tokenizer
from minigpt.data import Corpus, alike_updates, load_corpus, sequence_length
from minigpt.errors import RunError, TokenizerError, command_line, count
from minigpt.experiment import Experiment
from minigpt.model import GPT, build_model_on_meta
from minigpt.model.decoding import prompt_ids
from minigpt.reading import Reading
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.growing import check_beginning
from minigpt.run.identity import differing
from minigpt.run.progress import Progress
from minigpt.run.provenance import Change, changed_since, provenance
from minigpt.run.recorded import Machine, Provenance
from minigpt.run.segments import continued, refuse_beyond, refuse_fixed
from minigpt.training.averaging import refuse_constrained_weights
from minigpt.training.building import build_trainable
from minigpt.training.compiling import PAYS_AFTER, is_faster, missing_compiler
from minigpt.training.continuing import (
    OptimizerForm,
    ResumeRequest,
    changed_settings,
    form_of_optimizer,
    refuse_other_form,
    refuse_other_vocabulary,
    refuse_unasked,
)
from minigpt.training.estimate import Speed, compare_compiled, measure_speed
from minigpt.training.fitting import refuse_what_cannot_fit
from minigpt.training.machine import choose_device, choose_precision, is_present, use_threads
from minigpt.training.observer import Observer

_PRECISION_OF_SPEED = 0.03
"""Relative width of the interval of an update's time, if the number of updates is computed from it."""


@dataclass(frozen=True)
class Ready:
    """Everything that a session needs.

    Attributes:
        experiment: With all settings resolved.
        corpus: On the device.
        model: On the device.
        precision: `fp32` or `bf16`.
        seconds: Estimated time of the session.
        start: The checkpoint to continue from; None at the beginning.
        begins_with: The provenance of a new run; None for an existing run.
        counted: As for the Trainer.
        continues_with: The provenance of a run that is continued with other settings; None if it does not change.
    """

    experiment: Experiment
    corpus: Corpus
    model: GPT
    precision: str
    seconds: float
    start: Checkpoint | None = None
    begins_with: Provenance | None = None
    counted: Sequence[frozenset[str]] | None = None
    continues_with: Provenance | None = None


def prepare_anew(
    experiment: Experiment,
    run: RunFolder,
    observer: Observer,
    minutes: float | None,
    device: str,
    threads: int | None,
    corpus: Corpus | None,
    reading: Reading,
) -> Ready:
    """Prepare a new run; writes nothing."""
    observer.note(f"preparing {experiment.name}: corpus, model, speed of this machine")
    where, precision = _machine(experiment.training.precision, device, threads)
    corpus = (corpus or load_corpus(experiment)).to(where)
    for note in corpus.notes:
        observer.note(note)
    if corpus.tokenizer is not None:
        _check_prompt(corpus.tokenizer, experiment.sampling.prompt)
    experiment, model, speed = _build(experiment, corpus, run, where, precision, observer, reading, minutes=minutes)
    for spec in experiment.specs():
        if spec.cls.__module__ == "__main__":
            observer.note(
                f"{spec.family} {spec.name} is not in a file: only this process can open the run; write it to a plugin file"
            )
    found = provenance(experiment, corpus, device=where, precision=precision)
    return Ready(experiment, corpus, model, precision, speed.seconds(experiment), begins_with=found)


def _build(
    experiment: Experiment,
    corpus: Corpus,
    run: RunFolder,
    device: torch.device,
    precision: str,
    observer: Observer,
    reading: Reading,
    *,
    minutes: float | None = None,
    checkpoints: int = 0,
) -> tuple[Experiment, GPT, Speed]:
    """Build the model and measure its speed; shared by a new run and a continued one.

    Args:
        experiment: The experiment to train.
        corpus: On the device.
        run: Where checkpoints will be written.
        device: Where the run will train.
        precision: `fp32` or `bf16`.
        observer: Receives notes on the chosen settings.
        reading: Whether plugins of a teacher may be loaded.
        minutes: A time budget from which the number of updates is computed; None keeps the experiment's number.
        checkpoints: Number of checkpoints that the run has already.

    Returns:
        The experiment with the settings chosen for this machine, the model, and the speed.
    """
    refuse_what_cannot_fit(experiment, corpus, run.path, device, precision, checkpoints=checkpoints)
    model = build_trainable(experiment, corpus, device, reading)
    refuse_constrained_weights(experiment, model)
    compiled, speed = _choose_compile(experiment, corpus, model, precision, minutes, observer)
    settled: dict[str, Any] = {"precision": precision, "compile": compiled}
    if minutes is not None:
        settled["max_iters"] = speed.updates_within(experiment, minutes * 60)
        precise = f"± {speed.margin:.0%}" if speed.margin else "measured once"
        fits = count(settled["max_iters"], "update")
        observer.note(f"{minutes:g} min here are {fits} (an update takes {speed.update:.3g} s, {precise})")
    return _with_training(experiment, settled), model, speed


def _choose_compile(
    experiment: Experiment, corpus: Corpus, model: GPT, precision: str, minutes: float | None, observer: Observer
) -> tuple[bool, Speed]:
    """Decide whether to compile, and measure the speed of training with that choice.

    Raises:
        RunError: The experiment requires compiling, and there is no compiler.
    """
    wish, device = experiment.training.compile, model.device
    missing = missing_compiler(device)
    changing = _what_changes(experiment, corpus, model)
    if changing and wish is True:
        raise RunError(f"training.compile: {changing} while training, so updates would be compiled again and again")
    missing = changing or missing
    if wish is True and missing:
        raise RunError(f'training.compile: {missing}; install one, or set it to false or "auto"')
    width = None if minutes is None else _PRECISION_OF_SPEED
    speed = measure_speed(experiment, corpus, model, precision, compiled=wish is True, width=width)
    if wish != "auto":
        return wish, speed
    seconds = speed.seconds(experiment) if minutes is None else minutes * 60
    if seconds < PAYS_AFTER.get(device.type, math.inf):
        return False, speed
    if missing:
        observer.note(f"torch.compile is left out: {missing}")
        return False, speed
    from torch._dynamo.exc import TorchDynamoException  # imported here, because it takes a second

    observer.note("compiling the model, to measure whether that is faster")
    try:
        ratio = compare_compiled(experiment, corpus, model, precision)
    except TorchDynamoException as error:
        observer.note(f"torch.compile is left out: it cannot compile this model ({type(error).__name__})")
        return False, speed
    faster = is_faster(ratio)
    observer.note(f"compiled, an update takes {ratio} of the time: {'' if faster else 'not '}used")
    return (True, speed.times(ratio.value)) if faster else (False, speed)


def _what_changes(experiment: Experiment, corpus: Corpus, model: GPT) -> str | None:
    """What a compiled update would depend on and that changes while training; None if nothing does."""
    if model.is_ramped:
        return "model.dropout changes"
    shapes = alike_updates(experiment, sequence_length(corpus, experiment), most=2)
    return None if len(shapes) == 1 else "the size of a batch changes (training.batching)"


def _with_training(experiment: Experiment, changes: dict[str, Any]) -> Experiment:
    """The experiment with the settings chosen for this machine."""
    # A copy instead of a new reading, so that each component keeps its class even if another was registered since.
    training = experiment.training.model_copy(update=changes)
    training.schedule.build(training.max_iters)
    return experiment.model_copy(update={"training": training})


def prepare_to_continue(folder: RunFolder, observer: Observer, asked: ResumeRequest, corpus: Corpus | None) -> Ready:
    """Prepare to continue a run; writes nothing."""
    recorded = folder.provenance()
    overrides = (*folder.moved_data(), *asked.reading.overrides)
    experiment = folder.experiment(replace(asked.reading, overrides=overrides))
    folder.check_links()
    where, precision = _machine_again(folder, experiment.training.precision, recorded.machine, asked)
    experiment = _with_training(experiment, {"precision": precision})
    refuse_fixed(str(folder.path), changed_settings(recorded, asked.begun, experiment))
    _refuse_other_objective_weights(folder, asked.begun, experiment)
    start = _start_of(folder, experiment)
    step = start.progress.step if start else 0
    corpus = (corpus or load_corpus(experiment, folder.learned())).to(where)
    refuse_other_vocabulary(folder, corpus)
    now = provenance(experiment, corpus, device=where, precision=precision)
    refuse_unasked(folder, asked, changed_since(recorded, now))
    for note in start.notes if start else ():
        observer.note(note)
    n_checkpoints = len(checkpoint.available(folder.checkpoints))
    experiment, model, speed = _build(
        experiment, corpus, folder, where, precision, observer, asked.reading, checkpoints=n_checkpoints
    )
    # Again, now with the choice about torch.compile that was made.
    now = provenance(experiment, corpus, device=where, precision=precision)
    changes = changed_since(recorded, now)
    segments = recorded.segments
    is_unsaved = len(segments) > 1 and step <= segments[-1].from_update  # the segment was killed before its first checkpoint
    form = form_of_optimizer(experiment, corpus, model, precision) if start and (changes or is_unsaved) else None
    if start is not None:
        start = _checked(start, folder, changes, form, speed)
    if changes:
        _report_changes(changes, experiment, step, observer)
        now = continued(recorded, now, changes, step)
    left_out = differing(asked.begun.to_json(), experiment.to_json())
    return Ready(
        experiment,
        corpus,
        model,
        precision,
        speed.seconds(experiment, step),
        start=start,
        counted=form.counted if form else None,
        continues_with=now if changes else recorded if left_out else None,
    )


def _report_changes(changes: Sequence[Change], experiment: Experiment, step: int, observer: Observer) -> None:
    for change in changes:
        observer.note(f"changed: {change.line}")
    if any(change.what == "training.max_iters" for change in changes):
        observer.note(f"from now on the schedule covers {count(experiment.training.max_iters, 'update')}")
    observer.note(f"from update {step:,} on this is another segment of the run, and compare will not use the run")


def _refuse_other_objective_weights(folder: RunFolder, begun: Experiment, experiment: Experiment) -> None:
    """Refuse an objective whose weights the run has not trained.

    Raises:
        RunError: Names and shapes of the objective's weights differ from those that the run began with.
    """
    if begun.model.objective == experiment.model.objective:
        return
    before, now = (
        {name: tensor.shape for name, tensor in build_model_on_meta(each.model, folder.vocab_size()).state_dict().items()}
        for each in (begun, experiment)
    )
    if before != now:
        raise RunError(
            f"{folder.path} cannot be continued with objective {experiment.model.objective.name}: it has other weights than "
            f"{begun.model.objective.name}, with which the run began. Begin a new run instead"
        )


def _start_of(folder: RunFolder, experiment: Experiment) -> Checkpoint | None:
    """The checkpoint to continue from; None if there is none yet."""
    shapes = build_model_on_meta(experiment.model, folder.vocab_size())
    start, max_iters = checkpoint.load(folder.checkpoints, "last", shapes), experiment.training.max_iters
    step = start.progress.step if start else 0
    refuse_beyond(str(folder.path), max_iters, step)
    if start is not None and step == max_iters and start.progress.pending is None:
        raise RunError(
            f"{folder.path} is finished (step {step}); try: {command_line('generate', folder.path)}, or train it further: "
            f"{command_line('resume', folder.path, '--set', f'training.max_iters={2 * step}')}"
        )
    return start


def _checked(
    start: Checkpoint, folder: RunFolder, changes: Sequence[Change], form: OptimizerForm | None, speed: Speed
) -> Checkpoint:
    """The checkpoint, after checks that the session can use it; writes nothing."""
    if form is not None:
        refuse_other_form(folder, start, form, changes)
    start.check_optimizer(speed.state)
    _check_records(folder, start.progress)
    if any(change.what == "the data" for change in changes):  # losses on other data cannot be compared
        return replace(start, progress=replace(start.progress, best_step=None, best_val_loss=None))
    return start


def _check_records(folder: RunFolder, done: Progress) -> None:
    """Check, before anything is written, that the records can be continued. Raises RunError."""
    for path, length, sha256 in (
        (folder.metrics, done.metrics_bytes, done.metrics_sha256),
        (folder.samples, done.samples_bytes, done.samples_sha256),
    ):
        if length:
            check_beginning(path, length, sha256)


def _machine_again(folder: RunFolder, precision: str, machine: Machine, asked: ResumeRequest) -> tuple[torch.device, str]:
    """The device and precision to continue with: the run's last ones, unless others are requested."""
    wish = asked.device or machine.device
    if asked.device is None and not is_present(wish):
        raise RunError(
            f"{folder.path} was trained on {wish}, which is not available here. To continue on another device, but not bit "
            f"for bit: minigpt resume {folder.path} --device auto"
        )
    return _machine(precision, wish, asked.threads or machine.threads)


def _check_prompt(tokenizer: Tokenizer, prompt: str) -> None:
    """Refuse a prompt that the tokenizer cannot encode, before training instead of at the first sample."""
    try:
        prompt_ids(tokenizer, prompt)
    except TokenizerError as error:
        raise TokenizerError(f"sampling.prompt: {error}") from error


def _machine(precision: str, device: str, threads: int | None) -> tuple[torch.device, str]:
    if threads is not None:
        use_threads(threads)
    where = choose_device(device)
    return where, choose_precision(precision, where)
