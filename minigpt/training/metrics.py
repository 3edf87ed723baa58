"""Whole-split evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from minigpt.data import Corpus
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.training.machine import autocast, micro_batch_size


@dataclass(frozen=True)
class Measured:
    """What an evaluation gives, under the names that a line of metrics.jsonl has for it.

    Attributes:
        val_loss: In nats a target.
        val_perplexity: exp(val_loss).
        val_bits_per_byte: None for a synthetic task.
    """

    val_loss: float
    val_perplexity: float
    val_bits_per_byte: float | None


def evaluate(
    model: GPT,
    corpus: Corpus,
    experiment: Experiment,
    precision: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Mean loss over the whole validation split, every target exactly once, in fixed windows.

    Args:
        model: Left in the mode it was found in.
        corpus: On the model's device.
        experiment: For the micro-batch and the window, block_size.
        precision: `fp32` or `bf16`.
        progress: Called with targets done and in all; may raise to stop.

    Returns:
        The loss in nats a target, the perplexity, and for text the bits per byte.
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
    return Measured(
        val_loss=mean,
        val_perplexity=math.exp(min(mean, 700.0)),  # exp overflows beyond 709
        val_bits_per_byte=total / math.log(2) / corpus.val_bytes if corpus.val_bytes else None,
    )
