"""The properties of batchings."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import built, other_seeds_and_clock, random_states, random_states_kept
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.components.tokenizer.byte import ByteTokenizer
from minigpt.contracts import Batch, Batching, BatchShape, Draw, Source, TokenRows, TokenStream
from minigpt.errors import DataError

_VOCAB = 256

_MANY = 307  # updates of a long training

Kind = Literal["text", "task"]
_KINDS: dict[Kind, int] = {"text": 200, "task": 40}
"""Kinds of data, with the usual number of tokens or rows."""


@dataclass(frozen=True)
class Case:
    """One test case for a batching.

    Attributes:
        params: Parameters that differ from the defaults.
        kind: Kind of data: a text with documents, or the rows of a task.
        length: Tokens of the text, each with another id, or rows of the task.
        batch_size: Sequences in an update.
        block_size: Longest sequence.
        max_iters: Updates of the whole training.
        seed: Seed of the experiment, and of the data.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "text"
    length: int = 200
    batch_size: int = 4
    block_size: int = 16
    max_iters: int = 50
    seed: int = 0


def _cases(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    return [
        Case(base),
        Case(base, kind="task", length=9, block_size=7),
        Case(base, length=17, batch_size=3, max_iters=1),  # a single window fits
        Case(base, length=33, batch_size=40, max_iters=7),  # several epochs in a batch
        Case(base, length=230, batch_size=1, block_size=64, max_iters=1000, seed=3),
        Case(base, batch_size=5, block_size=1, seed=1),
        *(Case(params, kind, length, seed=2) for params in changed for kind, length in _KINDS.items()),
    ]


def _any_case(target: Target) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        params=parameters(target),
        kind=st.sampled_from(["text", "task"]),
        length=st.integers(50, 230),
        batch_size=st.integers(1, 9),
        block_size=st.integers(1, 40),
        max_iters=st.integers(1, 300),
        seed=st.integers(0, 9),
    )


def _batching(target: Target, case: Case) -> Batching:
    batching: Batching = built(target, case.params)
    return batching


def _source(case: Case) -> Source:
    """Data in which an id shows its place: a text has no id twice, and a row's ids show row and column."""
    rng = np.random.default_rng(case.seed)
    if case.kind == "text":
        inner = np.flatnonzero(rng.random(case.length - 1) < 0.1) + 1
        starts = torch.from_numpy(np.concatenate(([0], inner)))
        ids = torch.from_numpy(rng.permutation(_VOCAB)[: case.length].astype(np.int32))
        return Source(TokenStream(ids, starts), _VOCAB, ByteTokenizer())
    tokens = torch.arange(case.length * case.block_size).view(case.length, case.block_size).int()
    mask = torch.from_numpy(rng.random(tokens.shape) < 0.5)
    mask[:, -1] = True
    return Source(TokenRows(tokens, tokens.flip(1), mask), tokens.numel(), None)


def _draw(case: Case, step: int = 0) -> Draw:
    return Draw(case.seed, step, case.max_iters, case.batch_size, case.block_size)


def _steps(case: Case) -> list[int]:
    return sorted({*range(min(4, case.max_iters)), *(case.max_iters * part // 8 for part in range(8)), case.max_iters - 1})


def _drawn(batching: Batching, source: Source, draw: Draw) -> Batch:
    try:
        batch = batching.batch(source, draw)
    except DataError as refusal:
        raise Unsuitable(str(refusal)) from refusal
    if not isinstance(batch, Batch):
        raise Violation(f"batch returns a {type(batch).__name__}", cause="it must return a Batch")
    return batch


def _parts(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    return ((name, part) for name, part in vars(batch).items() if part is not None)


def _digest(value: Batch | TokenStream | TokenRows) -> str:
    digest = hashlib.sha256()
    for name, part in vars(value).items():
        content = b"" if part is None else part.contiguous().numpy().tobytes()
        digest.update(f"{name} {None if part is None else (part.dtype, tuple(part.shape))}".encode() + content)
    return digest.hexdigest()


@property_of("batching", cases=_cases, strategy=_any_case, quick=4)
@random_states_kept()
def function(target: Target, case: Case) -> None:
    """A batch depends only on data, seed and update, whatever was drawn before; the data do not change."""
    batching, source, steps, before = _batching(target, case), _source(case), _steps(case), random_states()
    first = {step: _digest(_drawn(batching, source, _draw(case, step))) for step in steps}
    changed = [name for name, state in random_states().items() if state != before[name]]
    if changed:
        raise Violation(
            f"it draws or seeds {changed[0]}'s global random numbers", cause="draw.rng() gives numbers for each update"
        )
    if _digest(source.data) != _digest(_source(case).data):
        raise Violation("drawing changes the data", cause="is a view of the data changed in place? clone it first")
    shuffled = random.Random(case.seed).sample(steps, len(steps))
    for when, order in {"again": steps, "in reversed order": steps[::-1], "in another order": shuffled}.items():
        _check_same(first, {step: _digest(_drawn(batching, source, _draw(case, step))) for step in order}, when)
    with other_seeds_and_clock():
        other = _batching(target, case)
        fresh = {step: _digest(_drawn(other, _source(case), _draw(case, step))) for step in shuffled}
    _check_same(first, fresh, "by another instance")
    _check_many(target, case)


def _check_many(target: Target, case: Case) -> None:
    """Check that an instance which has drawn many batches draws what a fresh one does: each update makes its own."""
    source, long = _source(case), replace(case, max_iters=_MANY)
    steps = {*random.Random(case.seed).sample(range(_MANY), 10), _MANY - 1}
    used, data = _batching(target, long), _digest(source.data)
    drawn = {step: _drawn(used, source, _draw(long, step)) for step in range(_MANY)}
    first = {step: _digest(drawn[step]) for step in steps}
    fresh = {step: _digest(_drawn(_batching(target, long), source, _draw(long, step))) for step in steps}
    _check_same(first, fresh, "by a new instance, as after resuming")
    if _digest(source.data) != data:
        raise Violation(f"{_MANY} draws change the data", cause="is a view of the data changed in place? clone it first")


def _check_same(first: Mapping[int, str], again: Mapping[int, str], when: str) -> None:
    differing = [step for step, digest in first.items() if again[step] != digest]
    if differing:
        raise Violation(
            f"the batch of update {differing[0]} differs when it is drawn {when}",
            at=differing[0],
            cause="does it count calls, keep an iterator or a generator, or use numbers that are not from draw.rng()?",
        )


@property_of("batching", cases=_cases, strategy=_any_case, quick=4)
@random_states_kept()
def batches(target: Target, case: Case) -> None:
    """Batches are well-formed and within the experiment's sizes, with ids of the vocabulary and a target that counts."""
    batching, source = _batching(target, case), _source(case)
    memory: dict[BatchShape, int] = {}
    for step in _steps(case):
        draw = _draw(case, step)
        batch = _drawn(batching, source, draw)
        where = f"in the batch of update {step} of {case.max_iters}"
        _check_form(batch, where)
        for name in ("tokens", "targets", "memory"):
            ids = getattr(batch, name)
            if ids is not None and ids.numel() and not (ids.min() >= 0 and ids.max() < source.vocab_size):
                raise Violation(
                    f"{where}, {name} are from {int(ids.min())} to {int(ids.max())}, but vocab_size is {source.vocab_size}",
                    cause="is an id made up that the vocabulary does not have?",
                )
        sequences, length = batch.tokens.shape
        if length > case.block_size or sequences * length > case.batch_size * case.block_size:
            raise Violation(
                f"{where}, {sequences} sequences of {length} tokens are more than {case.batch_size} of {case.block_size}",
                cause="a model's positions end at block_size, and memory is estimated for batch_size * block_size tokens",
            )
        shape = batching.shape(draw)
        if (sequences, length) != (shape.sequences, shape.length):
            raise Violation(
                f"{where} are {sequences} sequences of {length} tokens, but shape says {shape.sequences} of {shape.length}",
                cause="is it not batch_size sequences of block_size tokens? then override shape",
            )
        earlier = 0 if batch.memory is None else batch.memory.shape[1]
        if earlier != memory.setdefault(shape, earlier):
            raise Violation(
                f"{where}, memory has {earlier} tokens, in another batch of the same shape {memory[shape]}",
                cause="shape must say how many earlier tokens there are, if their number differs between updates",
            )
        if not batch.n_targets:
            raise Violation(f"{where}, no target counts", cause="is the mask inverted? True says that a target counts")
        _check_positions(batch, case.block_size, where)


def _check_positions(batch: Batch, block_size: int, where: str) -> None:
    if batch.positions is None:
        return
    if not (batch.positions.min() >= 0 and batch.positions.max() < block_size):
        found = f"from {int(batch.positions.min())} to {int(batch.positions.max())}"
        raise Violation(f"{where}, positions are {found}", cause="tables of positions have block_size rows")
    segments = torch.zeros_like(batch.positions) if batch.segments is None else batch.segments
    within = segments.diff() == 0
    wrong = (within & (batch.positions.diff() != 1)).nonzero()
    if len(wrong):
        raise Violation(
            f"{where}, positions do not ascend by one in a segment",
            at=int(wrong[0, 1]) + 1,
            cause="relative positions count tokens, so absolute ones of a segment must do it too",
        )


def _check_form(batch: Batch, where: str) -> None:
    rows = list(batch.tokens.shape)
    shapes = dict.fromkeys(("segments", "positions"), rows)
    if isinstance(batch.memory, Tensor) and batch.memory.ndim == 2:
        earlier = batch.memory.shape[1]
        shapes = {"memory": [rows[0], earlier], **{name: [rows[0], earlier + rows[-1]] for name in shapes}}
    for name, part in _parts(batch):
        kind = torch.bool if name == "mask" else torch.int64
        if not isinstance(part, Tensor) or part.dtype != kind:
            raise Violation(
                f"{where}, {name} is {getattr(part, 'dtype', type(part).__name__)} instead of {kind}",
                cause="ids are indices of an embedding: .long()",
            )
        if part.ndim != 2 or list(part.shape) != shapes.get(name, rows) or not part.numel():
            raise Violation(
                f"{where}, {name} has shape {list(part.shape)}, tokens {rows}",
                cause="every part is [batch, time]; the length of memory is added to that of segments and positions",
            )


@property_of("batching", cases=_cases, strategy=_any_case, quick=4)
@random_states_kept()
def order(target: Target, case: Case) -> None:
    """Each target that counts follows its input in the training data, in its segment, unless `keeps_order` is false."""
    batching, source = _batching(target, case), _source(case)
    if not batching.keeps_order:
        raise Unsuitable("it does not promise keeps_order")
    follows = _follows(source)
    for step in _steps(case):
        batch = _drawn(batching, source, _draw(case, step))
        counts = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
        for row, column in counts.nonzero().tolist():
            token, target_id = int(batch.tokens[row, column]), int(batch.targets[row, column])
            if (right := follows.get(token)) != target_id:
                raise Violation(
                    f"in the batch of update {step}, the target after {token} is {target_id} instead of {right}",
                    at=column,
                    cause="are targets the inputs shifted by one, from one place of the data, with the mask of a task?",
                )
        _check_neighbours(batch, source, follows, step)


def _follows(source: Source) -> dict[int, int]:
    """The target of each token of the data, where it counts."""
    if isinstance(source.data, TokenRows):
        data = source.data
        return dict(zip(data.tokens[data.mask].tolist(), data.targets[data.mask].tolist(), strict=True))
    ids = source.data.ids.tolist()
    return dict(pairwise(ids))


def _check_neighbours(batch: Batch, source: Source, follows: Mapping[int, int], step: int) -> None:
    """Tokens of one segment of a text are neighbours, and memory ends where the row begins."""
    if isinstance(source.data, TokenRows):
        return
    rows = batch.tokens if batch.memory is None else torch.cat((batch.memory, batch.tokens), 1)
    earlier = rows.shape[1] - batch.tokens.shape[1]
    segments = torch.zeros_like(rows) if batch.segments is None else batch.segments
    for ids, segment in zip(rows.tolist(), segments.tolist(), strict=True):
        for place, (one, next_one) in enumerate(pairwise(ids)):
            if segment[place] == segment[place + 1] and follows.get(one) != next_one:
                raise Violation(
                    f"in the batch of update {step}, {next_one} does not follow {one} in the data",
                    at=max(0, place + 1 - earlier),
                    cause="are two places of the data joined in one segment, or is memory from another place?",
                )


def _cases_of_many(target: Target) -> list[Case]:
    """Batches of so many sequences that two are not equal by chance."""
    sets = parameter_sets(target)
    return [Case(params, kind, length, batch_size=16) for params in sets for kind, length in _KINDS.items()]


@property_of("batching", cases=_cases_of_many)
@random_states_kept()
def draws(target: Target, case: Case) -> None:
    """Other updates and other seeds see other tokens."""
    batching, source = _batching(target, case), _source(case)
    draws_of = {
        "updates": [_draw(case, step) for step in range(4)],
        "seeds": [replace(_draw(case), seed=seed) for seed in range(4)],
    }
    for what, others in draws_of.items():
        if len({_digest(_drawn(batching, source, draw)) for draw in others}) < len(others):
            raise Violation(f"two {what} see the same batch", cause="does the draw depend on it? draw.rng() does")


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> list[str]:
    """Return digests of batches from a text and from a task.

    Raises:
        Unsuitable: The batching refuses these parameters, or both kinds of data.
    """
    digests = []
    for kind, length in _KINDS.items():
        case = Case(params, kind, length, max_iters=20)
        try:
            batching, source = _batching(target, case), _source(case)
            digests += [_digest(_drawn(batching, source, _draw(case, step))) for step in range(20)]
        except Unsuitable:
            if kind == "task" and not digests:
                raise
    return digests
