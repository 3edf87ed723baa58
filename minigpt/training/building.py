"""Make the model of an experiment ready to train: on the device, and able to open the runs that it learns from."""

from __future__ import annotations

import torch

from minigpt.data import Corpus
from minigpt.errors import RunError
from minigpt.experiment import Experiment
from minigpt.model import GPT, build_model
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.run.opening import OpenRun
from minigpt.run.teaching import Teachers


def build_trainable(
    experiment: Experiment,
    corpus: Corpus,
    device: torch.device | None = None,
    reading: Reading = AS_WRITTEN,
    *,
    random_ids: bool = False,
) -> GPT:
    """The model with its initial weights, as it is trained, timed and counted.

    Args:
        experiment: The experiment to train.
        corpus: Gives the vocabulary, which a teacher must share.
        device: Where it trains; None for the CPU.
        reading: Whether plugins of a teacher may be loaded.
        random_ids: The corpus is not a text, so only the size of a teacher's vocabulary must be the same.
    """
    model = build_model(experiment, corpus.vocab_size).to(device or torch.device("cpu"))
    kind = _OfThisSize if random_ids else Teachers
    model.open_run = kind(corpus.tokenizer, corpus.vocab_size, reading)
    return model


class _OfThisSize(Teachers):
    """Teachers whose vocabulary has the same size, for measurements on random ids."""

    def _checked(self, path: str, run: OpenRun) -> OpenRun:
        if run.model.dims.vocab_size != self.vocab_size:
            raise RunError(
                f"{path} has a vocabulary of {run.model.dims.vocab_size} tokens, and the model one of {self.vocab_size}: it "
                "cannot teach it; choose another --vocab-size"
            )
        return run
