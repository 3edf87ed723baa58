"""What the properties of whole models are tried on: a scorer, a sample of its data, and losses as validation computes them.

An experiment's model has fresh weights and random data. A run's model has its trained weights, as they are, and the run's
own validation data, tokenizer and precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minigpt.check import cases, probe
from minigpt.check.property import NotTried
from minigpt.check.targets import RUN, Target
from minigpt.contracts import Batch, TokenRows, TokenStream
from minigpt.data import Corpus
from minigpt.errors import DataError, TokenizerError
from minigpt.model import GPT
from minigpt.run.evaluation import Scorer, autocast, micro_batch_size

TOKENS = 4096
"""About how many tokens one computation reads, so that the time does not grow with the validation split."""

CELLS = 1 << 25
"""Most logits of one pass."""

_WINDOWS = 17
"""Windows of random data; more than two groups of eight."""

Split = TokenStream | TokenRows


@dataclass(frozen=True)
class Case:
    """One test case for a scorer.

    Attributes:
        rows: Whether the data are separate rows with a mask, and not a text. A run has its own data.
        time: Number T of tokens in a window; a run has windows of its block_size.
        sample: Number of the sample of the data.
    """

    rows: bool = False
    time: int = 1
    sample: int = 0

    def shown(self, target: Target) -> list[str]:
        """Return the fields that affect a target."""
        return ["sample"] if target.family == RUN else ["rows", "time", "sample"]


def scorer_of(target: Target, case: Case) -> Scorer:
    """Return the scorer of a target, in eval mode.

    Raises:
        NotTried: The run's data are not available.
        Unsuitable: The experiment refuses to be built.
    """
    if target.family == RUN:
        scorer = saved_scorer(target)
        return scorer if target.model is None else replace(scorer, model=target.model.eval())
    experiment, time = target.experiment, case.time
    assert experiment is not None
    subject = probe.build(target, cases.Case(block_size=experiment.model.block_size, time=time, seed=case.sample))
    assert isinstance(subject, probe.WholeModel)
    vocab = subject.model.dims.vocab_size
    val = _random_rows(time, vocab, case.sample) if case.rows else _random_text(time, vocab, case.sample)
    windows = experiment.model_copy(update={"model": experiment.model.model_copy(update={"block_size": time})})
    return Scorer(subject.model.eval(), Corpus(val, val, vocab, None, "", None), windows, "fp32")


def saved_scorer(target: Target) -> Scorer:
    """Return the scorer of a run as it was saved.

    Raises:
        NotTried: The run's data are not available.
    """
    try:
        return target.saved
    except (DataError, TokenizerError) as error:
        raise NotTried(str(error)) from error


def _random_text(time: int, vocab: int, seed: int) -> TokenStream:
    ids = torch.randint(0, vocab, (_WINDOWS * time + 1,), generator=torch.Generator().manual_seed(seed))
    return TokenStream(ids)


def _random_rows(time: int, vocab: int, seed: int) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    tokens, targets = (torch.randint(0, vocab, (_WINDOWS, time), generator=generator) for _ in range(2))
    mask = torch.rand(tokens.shape, generator=generator) < 0.5
    mask[:, -1] = True
    return TokenRows(tokens, targets, mask)


def sequences_at_once(scorer: Scorer) -> int:
    """Return the number of sequences that validation reads at once."""
    return micro_batch_size(scorer.experiment, scorer.model.device)


def sample(scorer: Scorer, number: int, most: int | None = None) -> Split:
    """Return a part of the validation split: rows, or windows from all over the text and a shorter one at its end.

    Args:
        scorer: Gives the split and the sizes.
        number: The number of the sample. Another sample has other windows or rows, if there are enough.
        most: The number of windows or rows; None for about as many as validation reads at once.
    """
    val, length = scorer.corpus.val, scorer.experiment.model.block_size
    if isinstance(val, TokenRows):
        length = val.tokens.shape[1]
    if most is None:
        few = min(sequences_at_once(scorer), TOKENS // length, CELLS // (length * scorer.corpus.vocab_size))
        most = max(2, few)
    total = len(val.tokens) if isinstance(val, TokenRows) else val.n_targets // length
    several = min(most, total)
    chosen = sorted((place * total // several + number) % total for place in range(several))
    if isinstance(val, TokenRows):
        places = torch.tensor(chosen, device=val.tokens.device)
        return TokenRows(val.tokens[places], val.targets[places], val.mask[places])
    pieces = [val.ids[place * length : (place + 1) * length] for place in chosen]
    return TokenStream(torch.cat([*pieces, val.ids[-1 - min(1 + length // 2, val.n_targets) :]]))


def one_batch(scorer: Scorer, number: int, rows: int) -> Batch:
    """Return the first windows or rows of a sample as one batch."""
    return next(sample(scorer, number, rows).windows(rows, scorer.experiment.model.block_size))


def shuffled(split: Split, seed: int) -> Split:
    """Return a split of the same tokens in random order, which no earlier evaluation has seen."""
    generator = torch.Generator().manual_seed(987 + seed)
    if isinstance(split, TokenStream):
        return TokenStream(split.ids[torch.randperm(len(split.ids), generator=generator)])
    order = torch.randperm(split.tokens.numel(), generator=generator)
    return replace(split, tokens=split.tokens.flatten()[order].view_as(split.tokens))


def split_losses(scorer: Scorer, model: GPT, split: Split, *, size: int | None = None, backwards: bool = False) -> Tensor:
    """Return the loss of each target that counts, in the order of the split, as validation computes it.

    Args:
        scorer: Gives the window, and the precision of a model in fp32.
        model: The scorer's model, or a copy of it in float64.
        split: The data.
        size: Sequences that are read at once; None for as many as validation reads.
        backwards: Read the batches in reverse order.
    """
    batches = list(split.windows(size or sequences_at_once(scorer), scorer.experiment.model.block_size))
    parts = []
    for batch in reversed(batches) if backwards else batches:
        each = batch_losses(scorer, model, batch.tokens, batch.targets)
        parts.append(each.flatten() if batch.mask is None else each[batch.mask])
    return torch.cat(parts[::-1] if backwards else parts)


@torch.no_grad()
def batch_losses(scorer: Scorer, model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each target of a batch, as validation computes it; arguments as for `split_losses`."""
    precision = scorer.precision if model.dtype == torch.float32 else "fp32"
    with autocast(precision, tokens.device):
        return model.target_losses(tokens, targets)
