"""Evaluation on the whole validation split: how a batch passes through a model, and the mean loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from minigpt.data import Corpus
from minigpt.experiment import Experiment
from minigpt.model import GPT

_CACHED_TOKENS = 4096


@dataclass(frozen=True)
class Scorer:
    """A model, and everything that its validation loss is measured with.

    Attributes:
        model: The model.
        corpus: On the model's device.
        experiment: Gives the micro-batch size and the window (block_size).
        precision: `fp32` or `bf16`.
    """

    model: GPT
    corpus: Corpus
    experiment: Experiment
    precision: str


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


def evaluate(scorer: Scorer, progress: Callable[[int, int], None] = lambda done, total: None) -> Measured:
    """Mean loss over the whole validation split, every target exactly once, in fixed windows.

    Args:
        scorer: The model and its data. The model's mode (train or eval) is restored on return.
        progress: Called with the targets done and the targets in total; may raise to stop.

    Returns:
        The loss in nats a target, the perplexity, and for text the bits per byte.
    """
    model, corpus, experiment = scorer.model, scorer.corpus, scorer.experiment
    training = model.training
    model.eval()
    size = micro_batch_size(experiment, model.device)
    total, done = 0.0, 0
    try:
        for batch in corpus.val.windows(size, experiment.model.block_size):
            # no_grad instead of inference_mode, because training must be able to use tensors that a component keeps
            with torch.no_grad(), autocast(scorer.precision, batch.tokens.device):
                loss = model.cross_entropy(batch.tokens, batch.targets, batch.mask)
            total += loss.item() * batch.n_targets
            done += batch.n_targets
            progress(done, corpus.val.n_targets)
    finally:
        model.train(training)
    mean = total / done
    return Measured(
        val_loss=mean,
        val_perplexity=math.exp(min(mean, 230.0)),  # a record holds 1e100 at most
        val_bits_per_byte=total / math.log(2) / corpus.val_bytes if corpus.val_bytes else None,
    )


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Matrix products in bf16 if the precision is `bf16`; weights and optimizer stay in fp32."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield
    torch.clear_autocast_cache()  # within a caller's autocast, torch would keep its copies of weights after an update


def micro_batch_size(experiment: Experiment, device: torch.device, length: int | None = None) -> int:
    """Sequences in one forward pass, of this length; None for block_size.

    On a CPU, activations of a small micro-batch stay in the cache, and their memory is reused instead of allocated again. At
    the documented size an update takes 0.6 of the time that one large batch takes.
    """
    if experiment.training.micro_batch_size is not None:
        return experiment.training.micro_batch_size
    longest = experiment.model.block_size
    most = _CACHED_TOKENS if device.type == "cpu" else experiment.training.batch_size * longest
    return max(1, most // (length or longest))
