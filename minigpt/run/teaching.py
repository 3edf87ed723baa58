"""Finished runs as teachers: their logits for the tokens that another model is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minigpt.contracts import Tokenizer
from minigpt.errors import RunError, command_line
from minigpt.experiment import Experiment
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.run.contents import runs_opened_by
from minigpt.run.folder import RunFolder
from minigpt.run.opening import OpenRun, open_run


class Teachers:
    """Opens runs by their folders, each once.

    Args:
        tokenizer: The student's tokenizer; a teacher must have an equal one.
        vocab_size: The student's number of token ids.
        reading: Whether plugins of a teacher may be loaded, and whether they are trusted.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int, reading: Reading = AS_WRITTEN):
        self.learned = None if tokenizer is None else tokenizer.to_json()
        self.vocab_size, self.reading = vocab_size, reading
        self.opened: dict[str, Teacher] = {}

    def __call__(self, path: str) -> Teacher:
        """The best checkpoint of a finished run.

        Raises:
            RunError: There is no such run, it is not finished, or it has another vocabulary.
            PluginError: The run used plugins, and plugins are refused.
            TrustError: A plugin of the run is not trusted.
        """
        if path not in self.opened:
            run = open_run(path, allow_plugins=self.reading.allow_plugins, trust=self.reading.trust)
            self.opened[path] = Teacher(self._checked(path, run))
        return self.opened[path]

    def _checked(self, path: str, run: OpenRun) -> OpenRun:
        folder = RunFolder(Path(path))
        if not folder.is_finished():
            raise RunError(f"{path} is not finished, so it cannot teach yet; continue it: {command_line('resume', path)}")
        learned = None if run.tokenizer is None else run.tokenizer.to_json()
        if learned != self.learned or run.model.dims.vocab_size != self.vocab_size:
            raise RunError(f"{path} has another vocabulary, so it cannot teach this model; train it on the same text")
        return run

    def __deepcopy__(self, memo: object) -> Self:
        """The same teachers: a copy of the student needs no copy of them."""
        return self


def refuse_unfit_teachers(
    experiment: Experiment, tokenizer: Tokenizer | None, vocab_size: int, reading: Reading = AS_WRITTEN
) -> None:
    """Open every run that a component of the experiment names.

    Raises:
        RunError: One of them cannot teach this model.
        PluginError: It used plugins, and plugins are refused.
        TrustError: One of its plugins is not trusted.
    """
    teachers = Teachers(tokenizer, vocab_size, reading)
    for spec in experiment.specs():
        for path in runs_opened_by(spec):
            teachers(str(path))


class Teacher:
    """A trained model in eval mode, without gradients."""

    def __init__(self, run: OpenRun):
        self.model = run.model.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """The logits of the next token.

        Raises:
            RunError: The sequences are longer than the model's context.
        """
        if tokens.shape[1] > self.model.dims.block_size:
            raise RunError(
                f"the teacher reads {self.model.dims.block_size} tokens at most, and a batch has {tokens.shape[1]}: "
                "choose a smaller model.block_size"
            )
        logits: Tensor = self.model.to(tokens.device)(tokens)
        return logits
