"""Evaluation on the whole validation split."""

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
    """The results of an evaluation, under the same names as in metrics.jsonl.

    Attributes:
        val_loss: Mean loss, in nats a target.
        val_perplexity: exp(val_loss).
        val_bits_per_byte: Loss in bits per byte of text; None for a synthetic task.
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
        model: Its mode (train or eval) is restored on return.
        corpus: On the model's device.
        experiment: Gives the micro-batch size and the window (block_size).
        precision: `fp32` or `bf16`.
        progress: Called with the targets done and the targets in total; may raise to stop.

    Returns:
        The loss in nats a target, the perplexity, and for text the bits per byte.
    """
    training = model.training
    model.eval()
    size = micro_batch_size(experiment, model.device)
    total, done = 0.0, 0
    try:
        for batch in corpus.val.windows(size, experiment.model.block_size):
            # no_grad instead of inference_mode, because training must be able to use tensors that a component keeps
            with torch.no_grad(), autocast(precision, batch.tokens.device):
                loss = model.cross_entropy(batch.tokens, batch.targets, batch.mask)
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
