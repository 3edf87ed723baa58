"""What decoding must satisfy: from a state, in chunks of any size, sequences come to what the full pass gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.agreement import ANOTHER, disagreement, distance, first_difference, run
from minigpt.check.probe import Case, Subject, any_case, build, fewer_cases, inputs, standard_cases
from minigpt.check.properties.sequence import PARTS
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Attention, ModelState, Position


@property_of(*PARTS, cases=standard_cases, strategy=any_case, quick=2)
def decoding(target: Target, case: Case) -> None:
    """Prefill and single steps, cut into chunks in any way, give what the full pass gives."""
    subject = build(target, case).eval()
    for lengths in _chunkings(case):

        def in_chunks(
            subject: Subject, dtype: torch.dtype, repetition: int, lengths: Sequence[int] = lengths
        ) -> tuple[Tensor, Tensor]:
            x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
            state = subject.new_state(case.batch, case.time, dtype)
            return chunk_by_chunk(subject, x, tokens, state, lengths), run(subject, x, tokens)

        size = disagreement(subject, in_chunks, ANOTHER)
        if size is not None:
            decoded, whole = in_chunks(subject, torch.float32, 0)
            place = first_difference(decoded, whole)
            raise Violation(
                f"decoded in chunks of {_said(lengths)}, output {place} is not that of the full pass",
                at=place,
                size=size,
                cause="is all that an output needs kept in the state, rotated by ctx.positions and dropped at the window? "
                "does substate(state, name) name the attribute?",
            )

    if case.time > 8 and _decodes_without_end(subject, case):
        _check_far(subject, case)


def _decodes_without_end(subject: Subject, case: Case) -> bool:
    """Whether something is remembered, and no more of it at the end than in training: then decoding goes on and on."""
    sizes = [subject.new_state(1, factor * case.block_size, torch.float32).nbytes for factor in (2, 4)]
    parts = [part for part in subject.modules() if isinstance(part, Position)]
    return sizes[0] == sizes[1] > 0 and not any(part.max_positions or "embed" in part.hooks for part in parts)


def _check_far(subject: Subject, case: Case) -> None:
    """Twice as far as block_size, in single steps and in larger chunks."""
    far = replace(case, time=min(2 * case.block_size + 3, 90))

    def in_two_ways(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, far, offset=2 * repetition, dtype=dtype)
        third = far.time // 3
        ways = ([*[third] * 2, *[1] * (far.time - 2 * third)], [third, 2, third, far.time - 2 * third - 2])
        states = (subject.new_state(case.batch, far.time, dtype) for _ in ways)
        first, second = (chunk_by_chunk(subject, x, tokens, *both) for both in zip(states, ways, strict=True))
        return first, second

    if (size := disagreement(subject, in_two_ways, ANOTHER)) is not None:
        raise Violation(
            f"beyond block_size {case.block_size}, decoded one by one or in chunks, outputs differ",
            size=size,
            cause="a table or a mask of block_size rows?",
        )


def _chunkings(case: Case) -> list[list[int]]:
    """One by one; all but one, then one; two or more random ways. A long sequence is prefilled, then goes on in steps."""
    time, rng = case.time, random.Random(case.seed)
    ways = [[1] * time if time <= 30 else [time - 24, *[1] * 24], [time], [time - 1, 1] if time > 1 else [1]]
    for _ in range(2 if time > 30 else 1):
        lengths: list[int] = []
        while sum(lengths) < time:
            lengths.append(min(rng.choice([1, 2, rng.randint(1, 9), rng.randint(1, 1 + time // 2)]), time - sum(lengths)))
        ways.append(lengths)
    return list(map(list, dict.fromkeys(map(tuple, ways))))


def _said(lengths: Sequence[int]) -> str:
    shown = ", ".join(map(str, lengths[:6]))
    return f"{shown}, … ({len(lengths)} in all)" if len(lengths) > 6 else shown


def chunk_by_chunk(subject: Subject, x: Tensor, tokens: Tensor, state: ModelState, lengths: Sequence[int]) -> Tensor:
    """Outputs of one chunk after another, joined."""
    pieces, start = [], 0
    for length in lengths:
        pieces.append(run(subject, x[:, start : start + length], tokens[:, start : start + length], state))
        start += length
    return torch.cat(pieces, 1)


@property_of(*PARTS, cases=fewer_cases, strategy=any_case)
def states(target: Target, case: Case) -> None:
    """A state holds its own sequences and no others: after one another, in turn, selected, repeated, shortened, joined."""
    subject = build(target, case).eval()
    if case.time < 2:
        raise Unsuitable("one token cannot be continued")
    half = case.time // 2
    rest = slice(half, case.time)
    for way, cause in _WAYS.items():

        def continued(subject: Subject, dtype: torch.dtype, repetition: int, way: str = way) -> tuple[Tensor, Tensor]:
            x, tokens = inputs(subject, case, offset=2 * repetition, batch=2, dtype=dtype)
            other, other_tokens = inputs(subject, case, offset=2 * repetition + 1, batch=2, dtype=dtype)
            whole = run(subject, x, tokens)[:, rest]
            state = _after(subject, x[:, :half], tokens[:, :half], case.time)
            if way == "in turn":
                second = _after(subject, other[:, :half], other_tokens[:, :half], case.time)
                run(subject, other[:, rest], other_tokens[:, rest], second)
            elif way == "selected":
                state, x, tokens, whole = state.select(torch.tensor([1, 0])), x[[1, 0]], tokens[[1, 0]], whole[[1, 0]]
            elif way == "repeated":
                state = state.repeat(2)
                x, tokens, whole = (part.repeat_interleave(2, 0) for part in (x, tokens, whole))
            elif way == "joined":
                rows = [_after(subject, x[[row], :half], tokens[[row], :half], case.time) for row in (0, 1)]
                state = ModelState.join(rows)
            elif way == "shortened":
                state = _after(subject, x[:, :half], tokens[:, :half], 2 * case.time)
                if not state.truncatable:
                    return whole, whole
                run(subject, other[:, rest], other_tokens[:, rest], state)
                state.truncate(case.time - half)
            elif way == "after another sequence":
                run(subject, x[:, rest], tokens[:, rest], state)
                state = _after(subject, x[:, :half], tokens[:, :half], case.time)
            return run(subject, x[:, rest], tokens[:, rest], state), whole

        size = disagreement(subject, continued, ANOTHER)
        if size is not None:
            raise Violation(f"states {way}: what follows is not what the full pass gives", size=size, cause=cause)
    _check_refusals(subject, case, half)


_WAYS = {
    "after another sequence": "does the module itself remember something, beside the state?",
    "in turn": "does the module itself remember something, beside the state?",
    "selected": "does every tensor of the state have the batch as its first axis?",
    "repeated": "does every tensor of the state have the batch as its first axis?",
    "shortened": "does it keep more than new_cache gives? set the state's `complete` to False then",
    "joined": "does every tensor of the state have the batch as its first axis?",
}


def _after(subject: Subject, x: Tensor, tokens: Tensor, capacity: int) -> ModelState:
    """The state after these tokens."""
    state = subject.new_state(x.shape[0], capacity, x.dtype)
    run(subject, x, tokens, state)
    return state


def _check_refusals(subject: Subject, case: Case, half: int) -> None:
    """Sequences of different lengths do not fit into one state, and a state of two sequences does not fit three."""
    x, tokens = inputs(subject, case, batch=3)
    short, long = (_after(subject, x[:1, :end], tokens[:1, :end], case.time) for end in (half, case.time))
    try:
        ModelState.join([short, long])
    except ValueError:
        pass
    else:
        raise Violation(
            f"states at {half} and {case.time} tokens are joined as if they stood at one place",
            cause="is state.length kept?",
        )
    state = _after(subject, x[:2, :half], tokens[:2, :half], case.time)
    whole = run(subject, x, tokens)[:, half:]
    try:
        y = run(subject, x[:, half:], tokens[:, half:], state)
    except (RuntimeError, ValueError, IndexError, TypeError):  # whatever tells that they do not fit
        return
    if distance(y, whole) > ANOTHER and state.nbytes:
        raise Violation(
            "a state of two sequences is taken for three, and the outputs are wrong",
            cause="is one row of the state used for the whole batch?",
        )


@property_of("attention", cases=standard_cases, strategy=any_case)
def reach(target: Target, case: Case) -> None:
    """An attention that promises `reach` looks no further back, and its state does not grow beyond that."""
    single = replace(case, n_layers=1)
    layer = next(part for part in build(target, single).modules() if isinstance(part, Attention))
    if layer.reach is None:
        raise Unsuitable("it promises no reach")
    far = replace(single, time=layer.reach + 5, block_size=max(case.block_size, layer.reach + 5))
    if far.time > 600:
        raise Unsuitable(f"a reach of {layer.reach} tokens is more than is tried")
    subject = build(target, far).eval()
    place = layer.reach + 2

    def earlier_ones_change(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, far, offset=2 * repetition, dtype=dtype)
        other, other_tokens = inputs(subject, far, offset=2 * repetition + 1, dtype=dtype)
        end = place - far_reach + 1  # inputs before this are out of reach for outputs from `place` on
        other[:, end:], other_tokens[:, end:] = x[:, end:], tokens[:, end:]
        return run(subject, other, other_tokens)[:, place:], run(subject, x, tokens)[:, place:]

    far_reach = layer.reach
    size = disagreement(subject, earlier_ones_change)
    if size is not None:
        raise Violation(
            f"output {place} changes when input {place - far_reach} does, and a reach of {far_reach} is promised",
            at=place,
            size=size,
            cause="is the window one too long?",
        )
    _check_size(subject, far_reach)


def _check_size(subject: Subject, reach: int) -> None:
    """Once everything in reach is remembered, a state stays as large as it is."""
    capacity = 4 * reach + 8
    if subject.new_state(1, capacity, torch.float32).nbytes != subject.new_state(1, 2 * capacity, torch.float32).nbytes:
        raise Violation(
            f"a state grows with its capacity, {capacity} or {2 * capacity} tokens, though a reach of {reach} is promised",
            cause="is the window handed to new_cache?",
        )
    state, sizes = subject.new_state(1, capacity, torch.float32), []
    for _ in range(2):
        case = Case(time=capacity // 2, batch=1)
        x, tokens = inputs(subject, case)
        run(subject, x, tokens, state)
        sizes.append(state.nbytes)
    if sizes[0] != sizes[1]:
        raise Violation(
            f"a state grows from {sizes[0]} to {sizes[1]} bytes, though a reach of {reach} is promised",
            cause="is the cache trimmed to the window?",
        )
