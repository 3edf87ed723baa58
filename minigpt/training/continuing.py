"""Continuing a run: which changes were requested, and which are refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from minigpt.data import Corpus, train_batch
from minigpt.errors import RunError, count
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.reading import Reading
from minigpt.run import optimizer_state
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.identity import differing, settings_of
from minigpt.run.provenance import Change
from minigpt.run.recorded import Provenance
from minigpt.training.loop import compute_gradients, take_step
from minigpt.training.machine import build_optimizer


@dataclass(frozen=True)
class ResumeRequest:
    """A request to continue a run: the experiment in its folder, and the arguments of `resume`."""

    begun: Experiment
    reading: Reading
    device: str | None
    threads: int | None
    accept_changes: bool

    def names(self, change: Change) -> bool:
        """Whether the request names this change."""
        match change.what:
            case "the device":
                return self.device is not None
            case "the number of threads":
                return self.threads is not None
        path = "data" if change.what in ("the data", "the documents") else change.what
        return any(_is_same_or_nested(path, override.partition("=")[0].strip()) for override in self.reading.overrides)


def _is_same_or_nested(one: str, other: str) -> bool:
    """Whether two setting paths are equal, or one contains the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def changed_settings(recorded: Provenance, begun: Experiment, experiment: Experiment) -> list[Change]:
    """Settings that differ from the run's last segment, or from the experiment in its folder."""
    after = experiment.to_json()
    changes = [Change(*difference) for difference in differing(begun.to_json(), after)]
    changes += [Change(*difference) for difference in differing(recorded.experiment, settings_of(experiment.to_file_json()))]
    return list({change.what: change for change in changes}.values())


def refuse_unasked(folder: RunFolder, asked: ResumeRequest, changes: Sequence[Change]) -> None:
    """Refuse to continue if something changed that the user did not request.

    Raises:
        RunError: There are unrequested changes; the message names them all.
    """
    unasked = [change.line for change in changes if not asked.names(change)]
    if unasked and not asked.accept_changes:
        raise RunError(
            f"{folder.path} cannot be continued exactly, because these changed: {'; '.join(unasked)}. "
            "Undo the changes, or give up exactness with --accept-changes"
        )


def refuse_other_vocabulary(folder: RunFolder, corpus: Corpus) -> None:
    """Refuse data whose vocabulary is not the model's.

    Raises:
        RunError: The number of tokens differs, or one of the run and the data has text and the other has rows of tokens.
    """
    if (corpus.vocab_size, corpus.tokenizer is None) != (folder.vocab_size(), folder.learned() is None):
        raise RunError(
            f"{folder.path} cannot be continued with these data: they have {count(corpus.vocab_size, 'token')}, and the "
            f"model has {folder.vocab_size()}. Begin another run for these data"
        )


@dataclass(frozen=True)
class OptimizerForm:
    """The form of an optimizer's state after its first updates.

    Attributes:
        counted: For each parameter group, the keys that the optimizer updates itself, such as a step count. They are no
            hyperparameters.
        sizes: Number of parameters in each group.
        state: The state of each parameter, as in its state_dict.
    """

    counted: tuple[frozenset[str], ...]
    sizes: tuple[int, ...]
    state: dict[Any, Any]


def form_of_optimizer(experiment: Experiment, corpus: Corpus, model: GPT, precision: str) -> OptimizerForm:
    """Make two updates of a copy of the model; the model and the random state do not change."""
    with torch.random.fork_rng():
        trial = copy.deepcopy(model).train()
        optimizer = build_optimizer(experiment, trial, precision)
        built = copy.deepcopy(optimizer.state_dict()["param_groups"])
        for step in range(2):
            compute_gradients(trial, train_batch(corpus, experiment, step), experiment, precision)
            take_step(trial, optimizer)
        after = optimizer.state_dict()
        groups = list(zip(built, after["param_groups"], strict=True))
        return OptimizerForm(
            counted=tuple(
                frozenset(key for key in now if not _is_unchanged(before.get(key), now[key])) for before, now in groups
            ),
            sizes=tuple(len(group["params"]) for group in built),
            state=after["state"],
        )


def _is_unchanged(before: Any, now: Any) -> bool:
    if isinstance(before, torch.Tensor) and isinstance(now, torch.Tensor):
        return torch.equal(before, now)
    return type(before) is type(now) and bool(before == now)


def refuse_other_form(folder: RunFolder, start: Checkpoint, form: OptimizerForm, changes: Sequence[Change]) -> None:
    """Refuse optimizer settings under which its saved state cannot be used.

    Raises:
        RunError: A changed optimizer setting gives the state another form.
    """
    settings = [change.line for change in changes if change.what.startswith("training.optimizer.")]
    if settings and not optimizer_state.continues(start.optimizer, form.sizes, form.state):
        raise RunError(
            f"{folder.path} cannot be continued with {'; '.join(settings)}: the optimizer's state would have another form. "
            "Begin another run for this setting"
        )
