"""The properties of a whole model as a scorer, measured with the functions that validation uses."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from minigpt.check.agreement import OTHER_PATH, disagreement, distance
from minigpt.check.property import NotTried, Violation, property_of
from minigpt.check.scoring import (
    CELLS,
    TOKENS,
    Case,
    Split,
    batch_losses,
    one_batch,
    sample,
    saved_scorer,
    scorer_of,
    sequences_at_once,
    shuffled,
    split_losses,
)
from minigpt.check.targets import EXPERIMENT, RUN, Target
from minigpt.contracts import TokenStream
from minigpt.model import GPT
from minigpt.run.evaluation import Scorer, autocast, evaluate

_MANY_IDS = 1024
"""From this vocabulary size on, the probabilities of some next tokens are compared with the logits, and not added up."""

_STEPS = 128
"""Most tokens that are read one by one."""

_CHANGED = 32
"""Tokens of a row whose later tokens change. Short, so that there are many rows, and an id for each that may leak."""

_UNEXPLAINED = 1e-3
"""A sum of probabilities that differs from 1 by more is no rounding."""

_IN_BF16 = 2e-3
"""In nats: a larger mean difference between two passes of one shape in bf16 is no rounding."""

_NARROW = 0.03
"""Relative to 1 + the loss: a larger difference between a mean loss in bf16 and in fp32 is no rounding."""

_REPRODUCED = {"fp32": 1e-4, "bf16": 1e-2}
"""How precisely a loss is measured again, relative to 1 + the loss: on another machine sums are rounded differently."""


def _cases(target: Target) -> list[Case]:
    if target.family == RUN:
        return [Case(sample=number) for number in range(3)]
    assert target.experiment is not None
    size = target.experiment.model.block_size
    return [Case(time=min(33, size)), Case(rows=True, time=max(1, size - 1)), Case(time=size, sample=1)]


def _run_cases(target: Target) -> list[Case]:
    return [Case()]


@property_of(EXPERIMENT, RUN, cases=_cases, quick=1)
def grouping(target: Target, case: Case) -> None:
    """A target's loss is the same when it is scored again, in batches of other sizes, and in another order of batches."""
    scorer = replace(scorer_of(target, case), precision="fp32")
    _check_finite(split_losses(scorer, scorer.model, sample(scorer, case.sample)))

    def again(model: GPT, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        split = shuffled(sample(scorer, case.sample + repetition), repetition)
        first = split_losses(scorer, model, split)
        return split_losses(scorer, model, split), first

    if (size := disagreement(scorer.model, again)) is not None:
        raise Violation(
            "the losses of the same sequences change when they are scored again",
            size=size,
            cause="does a part remember earlier passes, or draw random numbers?",
        )

    def grouped(model: GPT, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        split = sample(scorer, case.sample + repetition)
        whole = split_losses(scorer, model, split)
        ways = [split_losses(scorer, model, split, size=size, backwards=backwards) for size, backwards in _WAYS.values()]
        return torch.stack(ways), whole.expand(len(ways), -1)

    if (size := disagreement(scorer.model, grouped, OTHER_PATH)) is not None:
        others, whole = grouped(scorer.model, torch.float32, 0)
        way, place = divmod(int((others - whole).abs().argmax()), whole.shape[1])
        raise Violation(
            f"the loss of target {place} {_changes(whole[way, place], others[way, place])} {list(_WAYS)[way]}",
            at=place,
            size=size,
            cause="is something normalised, routed or sorted over the batch, or remembered from an earlier batch?",
        )


_WAYS = {
    "when its sequence is scored alone": (1, False),
    "in batches of three": (3, False),
    "in another order of batches": (3, True),
}
"""Other ways to score: sequences at once, and whether the batches are read in reverse order."""


def _changes(before: Tensor, after: Tensor) -> str:
    return f"is {before:.4f} and changes by {after - before:+.2g}"


def _check_finite(losses: Tensor) -> None:
    if not torch.isfinite(losses).all():
        place = int((~torch.isfinite(losses)).nonzero()[0])
        cause = "an exponential without subtracting the maximum, a division by zero, or a logit of -inf?"
        raise Violation(f"the loss of target {place} is {losses[place].item()}", at=place, cause=cause)


@property_of(EXPERIMENT, RUN, cases=_cases, quick=1)
def distribution(target: Target, case: Case) -> None:
    """The probabilities of all next tokens, exp(-loss), sum to 1 at every position."""
    scorer = replace(scorer_of(target, case), precision="fp32")
    batch, vocab = one_batch(scorer, case.sample, 1), scorer.corpus.vocab_size
    if vocab > _MANY_IDS:
        few = max(1, CELLS // (32 * vocab))
        _check_some(scorer, batch.tokens[:, :few], batch.targets[:, :few])
        return
    total = _total(scorer, scorer.model, batch.tokens, batch.targets)
    if _error(total) > _UNEXPLAINED:
        with contextlib.suppress(RuntimeError):  # torch refuses a mix with fp32 tensors
            total = _total(scorer, copy.deepcopy(scorer.model).double(), batch.tokens, batch.targets)
    if _error(total) > _UNEXPLAINED:
        place = int((total - 1).abs().nan_to_num(nan=torch.inf).argmax())
        raise Violation(
            f"at position {place} the probabilities of the {vocab} tokens sum to {total[place]:.6g}",
            at=place,
            size=_error(total),
            cause="are there more logits than tokens? does the loss depend on more than the logits and the target?",
        )


def _error(total: Tensor) -> float:
    return float((total - 1).abs().nan_to_num(nan=torch.inf).amax())


def _total(scorer: Scorer, model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the probabilities of all tokens at each position of a sequence; each token is a target once."""
    vocab, at_once = scorer.corpus.vocab_size, sequences_at_once(scorer)
    total = torch.zeros(tokens.shape[1], dtype=torch.float64, device=tokens.device)
    for start in range(0, vocab, at_once):
        shifts = torch.arange(start, min(start + at_once, vocab), device=tokens.device)[:, None]
        losses = batch_losses(scorer, model, tokens.expand(len(shifts), -1), (targets + shifts) % vocab)
        total += losses.double().neg().exp().sum(0)
    return total


def _check_some(scorer: Scorer, tokens: Tensor, targets: Tensor) -> None:
    """Compare the losses of some next tokens with those that the logits imply, for a large vocabulary."""
    vocab, rows = scorer.corpus.vocab_size, 16
    ids = torch.randint(0, vocab, (rows, tokens.shape[1]), generator=torch.Generator().manual_seed(0)).to(tokens.device)
    ids[0], ids[1], ids[2] = targets[0], 0, vocab - 1
    tokens = tokens.expand(rows, -1)
    losses = batch_losses(scorer, scorer.model, tokens, ids)
    with torch.no_grad():
        logits = scorer.model(tokens)
    if logits.shape[-1] != vocab:
        raise Violation(f"there are {logits.shape[-1]} logits for {vocab} tokens", cause="is the output map too wide?")
    implied = -logits.double().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    if (size := distance(losses, implied)) > _UNEXPLAINED:
        raise Violation(
            "the loss of a token is not that of its logit among all logits",
            size=size,
            cause="does the loss depend on more than the logits and the target?",
        )


@property_of(EXPERIMENT, RUN, cases=_cases, quick=1)
def targets(target: Target, case: Case) -> None:
    """The validation loss is the mean over each target once, scored with nothing but the tokens before it."""
    scorer = scorer_of(target, case)
    _check_mean(scorer, sample(scorer, case.sample, 4))
    if scorer.precision == "bf16":
        _check_in_bf16(scorer, case)
    scorer = replace(scorer, precision="fp32")

    def without_later(model: GPT, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        batch = one_batch(scorer, case.sample + repetition, 2)
        places = _places(batch.tokens.shape)
        losses = [
            # a copy: a view has the later tokens in its storage
            batch_losses(scorer, model, batch.tokens[:, : place + 1].clone(), batch.targets[:, : place + 1])[:, -1]
            for place in places
        ]
        return torch.stack(losses, 1), batch_losses(scorer, model, batch.tokens, batch.targets)[:, places]

    if (size := disagreement(scorer.model, without_later, OTHER_PATH)) is not None:
        without, whole = without_later(scorer.model, torch.float32, 0)
        row, column = divmod(int((whole - without).abs().argmax()), whole.shape[1])
        place = _places(one_batch(scorer, case.sample, 2).tokens.shape)[column]
        raise Violation(
            f"the loss at position {place} {_changes(whole[row, column], without[row, column])} without the tokens after it",
            at=place,
            size=size,
            cause="does a part see later tokens, perhaps only after training? does one depend on the number of tokens?",
        )

    def with_other_later(model: GPT, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        return _changed(scorer, model, case.sample + repetition)

    if (size := disagreement(scorer.model, with_other_later, OTHER_PATH)) is not None:
        raise Violation(
            "a loss changes when only the tokens after its position change",
            size=size,
            cause="does a part see later tokens, perhaps only some of them, or only after training?",
        )


def _places(shape: torch.Size) -> list[int]:
    """Return positions, the last one included, whose prefixes have about TOKENS tokens together."""
    rows, time = shape
    step = max(1, round(rows * time * time / (2 * TOKENS)))
    return sorted({*range(0, time, step), time - 1})


@contextlib.contextmanager
def _received(model: GPT) -> Iterator[list[Tensor]]:
    """Inside, collect the ids that the model receives."""
    received: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, given: received.append(given[0].clone()))
    try:
        yield received
    finally:
        hook.remove()


def _check_mean(scorer: Scorer, split: Split) -> None:
    """Check that an evaluation reads each token once, and reports the mean of the losses that the logits imply."""
    with _received(scorer.model) as received:
        reported = evaluate(replace(scorer, corpus=replace(scorer.corpus, val=split))).val_loss
    read = torch.cat([ids.flatten() for ids in received])
    if isinstance(split, TokenStream):
        given, wanted = split.ids[:-1].long(), split.ids[1:].long()
        counts = torch.ones_like(wanted, dtype=torch.bool)
    else:
        given, wanted, counts = split.tokens.flatten().long(), split.targets.flatten().long(), split.mask.flatten()
    if not torch.equal(read, given):
        raise Violation(
            f"an evaluation gives the model {len(read)} tokens that are not the {len(given)} before the targets, each once",
            cause="is a window left out, repeated, or shifted?",
        )
    each: list[Tensor] = []
    with torch.no_grad(), autocast(scorer.precision, read.device):
        for ids, ahead in zip(received, _split_like(received, wanted), strict=True):
            logits = scorer.model(ids).double().flatten(0, 1)
            each.append(-logits.log_softmax(-1).gather(-1, ahead[:, None])[:, 0])
    mean = float(torch.cat(each)[counts].mean())
    if not abs(reported - mean) <= 1e-5 * (1 + abs(mean)):
        raise Violation(
            f"the reported loss is {reported:.6f}, but the mean over the {int(counts.sum())} targets is {mean:.6f}",
            size=abs(reported - mean) / (1 + abs(mean)),
            cause="does the loss depend on more than the logits and the targets, or change from pass to pass?",
        )


def _split_like(parts: list[Tensor], whole: Tensor) -> list[Tensor]:
    """Return consecutive pieces of a vector, each as long as the part of the same number has elements."""
    ends = [0, *itertools.accumulate(part.numel() for part in parts)]
    return [whole[start:end] for start, end in itertools.pairwise(ends)]


def _changed(scorer: Scorer, model: GPT, number: int) -> tuple[Tensor, Tensor]:
    """Return losses before and after later tokens change: from another place on in each row, to another id there."""
    batch, vocab = one_batch(scorer, number, 1), scorer.corpus.vocab_size
    time, device = min(batch.tokens.shape[1], _CHANGED), batch.tokens.device
    rows = max(1, TOKENS // _CHANGED)
    generator = torch.Generator().manual_seed(number)
    ids = torch.cat((torch.tensor([0, vocab - 1]), torch.randperm(vocab, generator=generator)))
    kept = (1 + torch.arange(rows) % max(1, time - 1))[:, None]
    places, others = torch.arange(time), torch.randint(0, vocab, (rows, time), generator=generator)
    others = torch.where(places == kept, ids[torch.arange(rows) % len(ids)][:, None], others).to(device)
    stays = (places < kept).to(device)
    tokens, goals = (each[:, :time].expand(rows, -1) for each in (batch.tokens, batch.targets))
    at_once = sequences_at_once(scorer)
    parts = [slice(start, start + at_once) for start in range(0, rows, at_once)]
    before, after = (
        torch.cat([batch_losses(scorer, model, given[part], goals[part]) for part in parts])
        for given in (tokens, torch.where(stays, tokens, others))
    )
    return after[stays], before[stays]


def _check_in_bf16(scorer: Scorer, case: Case) -> None:
    """Check that the run's losses in bf16 are about those in fp32, and do not depend on later tokens either."""
    split = sample(scorer, case.sample)
    scorers = (scorer, replace(scorer, precision="fp32"))
    in_bf16, in_fp32 = (float(split_losses(each, each.model, split).double().mean()) for each in scorers)
    size = abs(in_bf16 - in_fp32) / (1 + in_fp32)
    if not size <= _NARROW:
        raise Violation(
            f"the loss of a sample is {in_bf16:.4f} in bf16, but {in_fp32:.4f} in fp32",
            size=size,
            cause="is there a separate path for bf16?",
        )
    after, before = _changed(scorer, scorer.model, case.sample)
    size = float((after - before).abs().mean())
    if not size <= _IN_BF16:
        raise Violation(
            "in bf16, losses change when only the tokens after their positions change",
            size=size,
            cause="is there a separate path for bf16, or a mask value that bf16 rounds away?",
        )


@property_of(EXPERIMENT, RUN, cases=_cases, quick=1)
def stepwise(target: Target, case: Case) -> None:
    """Scored token by token from the state, a target has the same loss as in the full pass."""
    scorer = replace(scorer_of(target, case), precision="fp32")

    @torch.no_grad()
    def in_two_ways(model: GPT, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        batch = one_batch(scorer, case.sample + repetition, 2)
        time = batch.tokens.shape[1]
        state = model.new_state(len(batch.tokens), time, dtype)
        first = time - min(time, _STEPS)
        starts = [*([0] if first else []), *range(first, time), time]
        logits = torch.cat([model(batch.tokens[:, start:end], state) for start, end in pairwise(starts)], 1)
        losses = -logits.log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
        return losses, batch_losses(scorer, model, batch.tokens, batch.targets)

    if (size := disagreement(scorer.model, in_two_ways, OTHER_PATH)) is not None:
        stepped, whole = in_two_ways(scorer.model, torch.float32, 0)
        row, place = divmod(int((stepped - whole).abs().argmax()), whole.shape[1])
        raise Violation(
            f"the loss at position {place} {_changes(whole[row, place], stepped[row, place])} token by token",
            at=place,
            size=size,
            cause="does the state keep all that later outputs need? does the full pass see later tokens?",
        )


@property_of(RUN, cases=_run_cases, quick=1)
def reproduced(target: Target, case: Case) -> None:
    """The model that was saved has the validation loss that was recorded."""
    saved = saved_scorer(target)
    if target.model is not None:
        _check_saved(saved, target.model.eval())
        return
    assert target.run is not None
    recorded = next((row.val_loss for row in reversed(target.run.rows()) if row.val_loss is not None), None)
    if recorded is None:
        raise NotTried("no validation loss is recorded")
    measured = evaluate(saved).val_loss
    size = abs(measured - recorded) / (1 + abs(recorded))
    if not size <= _REPRODUCED[saved.precision]:
        raise Violation(
            f"the recorded validation loss is {recorded:.6f}, but the saved model has {measured:.6f}",
            size=size,
            cause="does a part keep something that is no parameter and no buffer? was a file edited since?",
        )


def _check_saved(saved: Scorer, model: GPT) -> None:
    """Check at the end of a training that the saved model scores a part of the data as the model in memory does."""
    before, after = (split_losses(saved, each, sample(saved, 0)) for each in (model, saved.model))
    size = distance(after, before)
    if not size <= _REPRODUCED[saved.precision]:
        raise Violation(
            f"the loss of a sample is {before.mean():.6f} for the model in memory, but {after.mean():.6f} for the saved one",
            size=size,
            cause="does a part keep something that is no parameter and no buffer?",
        )
