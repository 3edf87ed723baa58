"""Whole-split evaluation, and the files that grow line by line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch

from minigpt.data import Corpus
from minigpt.errors import RunError, WriteError
from minigpt.experiment import Experiment
from minigpt.files import open_growing, write_all
from minigpt.model import GPT
from minigpt.training.machine import autocast, micro_batch_size


def evaluate(
    model: GPT,
    corpus: Corpus,
    experiment: Experiment,
    precision: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Mean loss over the whole validation split, every target exactly once, in fixed windows.

    Args:
        model: Left in the mode it was found in.
        corpus: On the model's device.
        experiment: For the micro-batch and the window, block_size.
        precision: `fp32` or `bf16`.
        progress: Called with targets done and in all; may raise to stop.

    Returns:
        `val_loss` in nats a target, `val_perplexity` = exp(val_loss), and for text `val_bits_per_byte`.
    """
    training = model.training
    model.eval()
    size = micro_batch_size(experiment, model.embedding.weight.device)
    total, done = 0.0, 0
    try:
        for batch in corpus.val.windows(size, experiment.model.block_size):
            # no_grad and not inference_mode: tensors that a component keeps must still be usable in training
            with torch.no_grad(), autocast(precision, batch.tokens.device):
                loss, _ = model.loss(batch.tokens, batch.targets, batch.mask)
            total += loss.item() * batch.n_targets
            done += batch.n_targets
            progress(done, corpus.val.n_targets)
    finally:
        model.train(training)
    mean = total / done
    result = {"val_loss": mean, "val_perplexity": math.exp(min(mean, 700.0))}  # exp overflows beyond 709
    if corpus.val_bytes:
        result["val_bits_per_byte"] = total / math.log(2) / corpus.val_bytes
    return result


class GrowingFile:
    """A file that is appended to, and cut back to a known length when a run is resumed.

    Args:
        path: Made if it is not there.
        length: What precedes belongs to the steps done; what follows is cut off.

    Raises:
        RunError: The file has lost some of it.
        WriteError: It cannot be written.
    """

    def __init__(self, path: Path, length: int):
        self.path, self._length = path, length
        try:
            self._handle = open_growing(path)
        except OSError as error:
            raise self._failed(error) from error
        there = os.fstat(self._handle).st_size
        if there < length:
            os.close(self._handle)
            raise RunError(f"{path} is shorter than the checkpoint says: {there:,} of {length:,} bytes are left")
        try:
            os.ftruncate(self._handle, length)
        except OSError as error:
            os.close(self._handle)
            raise self._failed(error) from error

    def append(self, text: str) -> None:
        """Write to the end; a reader sees it at once."""
        content = text.encode("utf-8", "backslashreplace")
        try:
            write_all(self._handle, content)
        except OSError as error:
            raise self._failed(error) from error
        self._length += len(content)

    def append_json(self, row: dict[str, float]) -> None:
        """A JSON object on a line of its own."""
        self.append(json.dumps(row, allow_nan=False) + "\n")

    @property
    def length(self) -> int:
        """Bytes written so far, synced to the disk."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise self._failed(error) from error
        return self._length

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *of_error: object) -> None:
        try:
            os.close(self._handle)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> WriteError:
        return WriteError(f"{self.path} cannot be written: {error.strerror}")
