"""The properties of decoding: with a state, in chunks of any sizes, it equals the full pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.agreement import OTHER_PATH, disagreement, distance, first_difference, run
from minigpt.check.cases import Case, any_case, cases_in_eval_mode, cases_of_decoding, fewer_cases, standard_cases
from minigpt.check.probe import Subject, build, copied, inputs
from minigpt.check.properties.sequence import PARTS
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Attention, ModelState, Position

_CONTINUED = (
    "does the state keep all that later outputs need, up to the same window? are ctx.positions used? "
    "does substate(state, name) name the attribute?"
)


@property_of(*PARTS, cases=cases_of_decoding, strategy=any_case, quick=5)
def decoding(target: Target, case: Case) -> None:
    """Decoding in chunks of any sizes gives the same outputs as the full pass."""
    subject = build(target, case).eval()
    for lengths in _chunkings(case):

        def in_chunks(
            subject: Subject, dtype: torch.dtype, repetition: int, lengths: Sequence[int] = lengths
        ) -> tuple[Tensor, Tensor]:
            x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
            state = subject.new_state(case.batch, case.time, dtype)
            return chunk_by_chunk(subject, x, tokens, state, lengths), run(subject, x, tokens)

        size = disagreement(subject, in_chunks, OTHER_PATH)
        if size is not None:
            decoded, whole = in_chunks(subject, torch.float32, 0)
            place = first_difference(decoded, whole)
            raise Violation(
                f"decoded in chunks of {_abbreviated(lengths)}, output {place} differs from the full pass",
                at=place,
                size=size,
                cause=_CONTINUED,
            )

    if case.time > 8 and _decodes_without_end(subject, case):
        _check_beyond_block_size(subject, case)


def _decodes_without_end(subject: Subject, case: Case) -> bool:
    """Return whether a state exists and has a constant size, so that decoding has no length limit."""
    sizes = [subject.new_state(1, factor * case.block_size, torch.float32).nbytes for factor in (2, 4)]
    parts = [part for part in subject.modules() if isinstance(part, Position)]
    return sizes[0] == sizes[1] > 0 and not any(part.max_positions or "embed" in part.hooks for part in parts)


def _check_beyond_block_size(subject: Subject, case: Case) -> None:
    """Compare decoding in single steps and in larger chunks, up to twice block_size."""
    far = replace(case, time=min(2 * case.block_size + 3, 90))

    def in_two_ways(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, far, offset=2 * repetition, dtype=dtype)
        third = far.time // 3
        ways = ([*[third] * 2, *[1] * (far.time - 2 * third)], [third, 2, third, far.time - 2 * third - 2])
        states = (subject.new_state(case.batch, far.time, dtype) for _ in ways)
        first, second = (chunk_by_chunk(subject, x, tokens, *both) for both in zip(states, ways, strict=True))
        return first, second

    if (size := disagreement(subject, in_two_ways, OTHER_PATH)) is not None:
        raise Violation(
            f"beyond block_size {case.block_size}, decoding in single steps and in chunks gives different outputs",
            size=size,
            cause="is there a table or a mask of block_size rows?",
        )


def _chunkings(case: Case) -> list[list[int]]:
    """Return ways to cut a sequence into chunks.

    Single steps (after a prefill if the sequence is long), one chunk, all but one token and then one, random chunks.
    """
    time, rng = case.time, random.Random(case.seed)
    ways = [[1] * time if time <= 30 else [time - 24, *[1] * 24], [time], [time - 1, 1] if time > 1 else [1]]
    if time > 300:
        return [ways[0], [time // 2, time - time // 2]]
    lengths: list[int] = []
    while sum(lengths) < time:
        lengths.append(min(rng.choice([1, 2, rng.randint(1, 9), rng.randint(1, 1 + time // 2)]), time - sum(lengths)))
    ways.append(lengths)
    return list(map(list, dict.fromkeys(map(tuple, ways))))


def _abbreviated(lengths: Sequence[int]) -> str:
    shown = ", ".join(map(str, lengths[:6]))
    return f"{shown}, … ({len(lengths)} in all)" if len(lengths) > 6 else shown


def chunk_by_chunk(subject: Subject, x: Tensor, tokens: Tensor, state: ModelState, lengths: Sequence[int]) -> Tensor:
    """Decode one chunk after another and join the outputs."""
    pieces, start = [], 0
    for length in lengths:
        pieces.append(run(subject, x[:, start : start + length], tokens[:, start : start + length], state))
        start += length
    return torch.cat(pieces, 1)


@property_of(*PARTS, cases=lambda target: cases_in_eval_mode(fewer_cases(target)), strategy=any_case)
def states(target: Target, case: Case) -> None:
    """States do not mix when used in turn, and stay correct when selected, repeated, shortened or joined."""
    subject = build(target, case).eval()
    if case.time < 2:
        raise Unsuitable("one token cannot be continued")
    half = case.time // 2
    rest = slice(half, case.time)
    for way, cause in _WAYS.items():

        def continued(subject: Subject, dtype: torch.dtype, repetition: int, way: str = way) -> tuple[Tensor, Tensor]:
            subject = copied(subject)  # so that what one way leaves in the module is not blamed on the next one
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

        used = (
            f"states {way}: the outputs that follow" if way else f"continued after {half} of {case.time} tokens, the outputs"
        )
        try:
            size = disagreement(subject, continued, OTHER_PATH)
        except ValueError as error:  # a cache without room, or states that cannot be joined
            raise Violation(f"{used} cannot be computed: {error}", cause=cause) from error
        if size is not None:
            raise Violation(f"{used} differ from the full pass", size=size, cause=cause)
    _check_refusals(subject, case, half)


_WAYS = {
    "": _CONTINUED,  # first, because every other way continues too
    "after another sequence": "does the module store something outside the state?",
    "in turn": "does the module store something outside the state?",
    "selected": "is the batch the first axis of every tensor in the state?",
    "repeated": "is the batch the first axis of every tensor in the state?",
    "shortened": "does the state hold more than new_cache gives? then set its `complete` to False",
    "joined": "is the batch the first axis of every tensor in the state?",
}


def _after(subject: Subject, x: Tensor, tokens: Tensor, capacity: int) -> ModelState:
    """Return the state after these tokens."""
    state = subject.new_state(x.shape[0], capacity, x.dtype)
    run(subject, x, tokens, state)
    return state


def _check_refusals(subject: Subject, case: Case, half: int) -> None:
    """Check that states of different lengths are not joined, and that a state refuses a larger batch."""
    x, tokens = inputs(subject, case, batch=3)
    short, long = (_after(subject, x[:1, :end], tokens[:1, :end], case.time) for end in (half, case.time))
    try:
        ModelState.join([short, long])
    except ValueError:
        pass
    else:
        raise Violation(
            f"states of {half} and {case.time} tokens are joined as if their lengths were equal",
            cause="is state.length updated?",
        )
    state = _after(subject, x[:2, :half], tokens[:2, :half], case.time)
    whole = run(subject, x, tokens)[:, half:]
    try:
        y = run(subject, x[:, half:], tokens[:, half:], state)
    except (RuntimeError, ValueError, IndexError, TypeError):  # each of these refuses the batch
        return
    if distance(y, whole) > OTHER_PATH and state.nbytes:
        raise Violation(
            "a state of two sequences is accepted for three, and the outputs are wrong",
            cause="is one row of the state used for the whole batch?",
        )


@property_of("attention", cases=standard_cases, strategy=any_case)
def reach(target: Target, case: Case) -> None:
    """An attention that promises `reach` looks back no further, and its state stops growing there."""
    single = replace(case, n_layers=1)
    layer = next(part for part in build(target, single).modules() if isinstance(part, Attention))
    if layer.reach is None:
        raise Unsuitable("it does not promise `reach`")
    longer = replace(single, time=layer.reach + 5, block_size=max(case.block_size, layer.reach + 5))
    if longer.time > 600:
        raise Unsuitable(f"a reach of {layer.reach} tokens is too long to check")
    subject = build(target, longer).eval()
    place = layer.reach + 2

    def change_inputs_out_of_reach(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, longer, offset=2 * repetition, dtype=dtype)
        other, other_tokens = inputs(subject, longer, offset=2 * repetition + 1, dtype=dtype)
        end = place - promised + 1  # earlier inputs are out of reach of `place` and later outputs
        other[:, end:], other_tokens[:, end:] = x[:, end:], tokens[:, end:]
        return run(subject, other, other_tokens)[:, place:], run(subject, x, tokens)[:, place:]

    promised = layer.reach
    size = disagreement(subject, change_inputs_out_of_reach)
    if size is not None:
        raise Violation(
            f"output {place} changes when input {place - promised} does, although a reach of {promised} is promised",
            at=place,
            size=size,
            cause="is the window one token too long?",
        )
    _check_size(subject, promised)


def _check_size(subject: Subject, reach: int) -> None:
    """Check that the state has a constant size when it holds everything in reach."""
    capacity = 4 * reach + 8
    if subject.new_state(1, capacity, torch.float32).nbytes != subject.new_state(1, 2 * capacity, torch.float32).nbytes:
        raise Violation(
            f"a state grows with its capacity ({capacity}, {2 * capacity} tokens), although a reach of {reach} is promised",
            cause="is the window passed to new_cache?",
        )
    state, sizes = subject.new_state(1, capacity, torch.float32), []
    for _ in range(2):
        case = Case(time=capacity // 2, batch=1)
        x, tokens = inputs(subject, case)
        run(subject, x, tokens, state)
        sizes.append(state.nbytes)
    if sizes[0] != sizes[1]:
        raise Violation(
            f"a state grows from {sizes[0]} to {sizes[1]} bytes, although a reach of {reach} is promised",
            cause="is the cache trimmed to the window?",
        )
