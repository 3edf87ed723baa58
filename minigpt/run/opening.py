"""Open a run: load its trained model and tokenizer from the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minigpt.contracts import Tokenizer
from minigpt.data import Corpus, load_corpus, restore_tokenizer
from minigpt.errors import DataError, RunError, command_line
from minigpt.experiment import Experiment
from minigpt.model import GPT, build_model, build_model_on_meta
from minigpt.reading import Reading
from minigpt.registry.spec import is_shipped, source_file
from minigpt.run import checkpoint
from minigpt.run.evaluation import Scorer
from minigpt.run.folder import RunFolder
from minigpt.run.provenance import part_sha256
from minigpt.run.recorded import Provenance
from minigpt.run.sources import Sources
from minigpt.system.memory import refuse_if_too_large


@dataclass(frozen=True)
class OpenRun:
    """A trained model, ready for use.

    Attributes:
        experiment: The run's resolved experiment.
        model: The model with the checkpoint's weights, in eval mode, on the CPU.
        tokenizer: The fitted tokenizer; None for a synthetic task.
        checkpoint: The checkpoint that the weights come from.
        notes: Messages for the user, one per line, for example that a part's source was edited since.
    """

    experiment: Experiment
    model: GPT
    tokenizer: Tokenizer | None
    checkpoint: checkpoint.Checkpoint
    notes: tuple[str, ...] = ()


def open_run(path: str | Path, *, which: str = "best", allow_plugins: bool = True, trust: bool = False) -> OpenRun:
    """Open a run's model.

    Args:
        path: The run folder.
        which: `best`, `last`, or a step number.
        allow_plugins: False refuses a run that used plugin files.
        trust: Execute the run's own plugins, and trust them from now on. Trusted plugins do not need this.

    Raises:
        RunError: There is no run, or it has no checkpoint yet.
        TrustError: A plugin of the run is not trusted.
        CheckpointError: The checkpoint is damaged.
    """
    run = RunFolder(Path(path))
    experiment, recorded = run.experiment(Reading(allow_plugins=allow_plugins, trust=trust)), run.provenance()
    run.identity()  # refuses an edit that was accepted but not trained with: it describes another model
    learned = run.learned()
    tokenizer = None if learned is None else restore_tokenizer(experiment, learned)
    vocab_size = run.vocab_size()
    if (tokenizer is None) != (recorded.data.tokenizer is None):
        raise RunError(f"{run.path / 'tokenizer.json'} is missing")
    if tokenizer is not None and tokenizer.vocab_size != vocab_size:
        raise RunError(
            f"{run.path / 'tokenizer.json'} is damaged: it has {tokenizer.vocab_size} tokens, but the run has {vocab_size}"
        )
    model, saved = load_model(run, experiment, vocab_size, which)
    notes = (*saved.notes, *_edited_parts(experiment, recorded))
    return OpenRun(experiment, model, tokenizer, saved, notes)


def load_model(run: RunFolder, experiment: Experiment, vocab_size: int, which: str) -> tuple[GPT, checkpoint.Checkpoint]:
    """Load a run's model with the weights of a checkpoint, in eval mode, on the CPU.

    Args:
        run: The run folder.
        experiment: The run's resolved experiment.
        vocab_size: The number of ids that the run was trained with.
        which: `best`, `last`, or a step number.

    Raises:
        RunError: It has no checkpoint yet.
        CheckpointError: The checkpoint is damaged.
    """
    shapes = build_model_on_meta(experiment.model, vocab_size)  # allocates no memory, in case the size is absurd
    refuse_if_too_large(f"{run.path}: the model", sum(value.nbytes for value in shapes.state_dict().values()))
    saved = checkpoint.load(run.checkpoints, which, shapes)
    if saved is None:
        raise RunError(f"{run.path} has no checkpoint yet; continue with: {command_line('resume', run.path)}")
    model = build_model(experiment, vocab_size)
    saved.load_weights(model)
    model.set_progress(min(1.0, saved.progress.step / experiment.training.max_iters))
    return model.eval(), saved


def load_scorer(run: RunFolder, experiment: Experiment, corpus: Corpus | None = None) -> Scorer:
    """Load the last model of a run with the data and the precision that its validation loss was measured with.

    Args:
        run: The run folder.
        experiment: The run's resolved experiment.
        corpus: None loads the experiment's corpus. The model is moved to its device.

    Raises:
        RunError: The run has no checkpoint yet, or its records are damaged.
        DataError: The data are not available on this machine, or are not those that the run was trained on.
    """
    recorded = run.provenance()
    corpus = corpus or load_corpus(experiment, run.learned())
    if corpus.fingerprint != recorded.data.fingerprint or corpus.vocab_size != recorded.data.vocab_size:
        raise DataError(f"{run.path} was trained on other data than its experiment gives on this machine")
    model, _ = load_model(run, experiment, corpus.vocab_size, "last")
    return Scorer(model.to(corpus.device), corpus, experiment, recorded.precision)


_ONLY_IN_TRAINING = ("dataset", "batching", "objective", "optimizer", "schedule")


def _edited_parts(experiment: Experiment, recorded: Provenance) -> list[str]:
    """A note for each plugin part whose source has changed since the run was trained."""
    trained_with = recorded.sources()
    now, notes = Sources(), []
    for spec in experiment.specs():
        part = f"{spec.family}/{spec.name}"
        if is_shipped(spec.cls) or spec.family in _ONLY_IN_TRAINING or part not in trained_with:
            continue
        if part_sha256(spec, now) != trained_with[part]:
            path = f" ({file})" if (file := source_file(spec.cls)) else ""
            notes.append(
                f"the source of {part}{path} changed since the run was trained: the model may compute something else"
            )
    return list(dict.fromkeys(notes))
