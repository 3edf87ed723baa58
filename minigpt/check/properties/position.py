"""The properties of positions: what they add, rotate and bias, and what happens past block_size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.agreement import OTHER_PATH, SAME_PATH, disagreement, distance, run
from minigpt.check.cases import Case, any_case, standard_cases
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Stack, Subject, build, inputs
from minigpt.check.properties.decoding import chunk_by_chunk
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Position


def _position(target: Target, case: Case) -> Position:
    subject = build(target, case)
    assert isinstance(subject, Stack)
    return subject.position


@property_of("position", cases=standard_cases, strategy=any_case)
def beyond(target: Target, case: Case) -> None:
    """Past block_size (up to max_positions if set), outputs are finite, decoding agrees, and shorter passes stay equal."""
    limit = _position(target, case).max_positions
    if limit is not None and limit <= case.block_size:
        raise Unsuitable(f"its max_positions is {limit}")
    time = min(3 * case.block_size, limit or 3 * case.block_size, 150)
    longer = replace(case, block_size=min(case.block_size, 50), time=time)
    short = longer.block_size // 2 + 1
    subject = build(target, replace(longer, time=short)).eval()
    x, tokens = inputs(subject, longer)
    before = run(subject, x[:, :short], tokens[:, :short])
    y = run(subject, x, tokens)
    if y.shape != x.shape or not torch.isfinite(y).all():
        raise Violation(
            f"with {time} tokens and a block_size of {longer.block_size}, outputs are not finite or have another shape",
            cause="a table of block_size rows? then set max_positions to its length",
        )
    if not torch.equal(run(subject, x[:, :short], tokens[:, :short]), before):
        raise Violation(
            f"the outputs of {short} tokens change after a pass of {time} tokens",
            cause="does a table that grows with the longest sequence replace the earlier values?",
        )
    near = min(short, time - 1)
    lengths = [near, *[1] * min(60, time - near), *[time - near - 60] * (time - near > 60)]

    def in_steps(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, longer, offset=2 * repetition, dtype=dtype)
        state = subject.new_state(longer.batch, time, dtype)
        return chunk_by_chunk(subject, x, tokens, state, lengths), run(subject, x, tokens)

    if (size := disagreement(subject, in_steps, OTHER_PATH)) is not None:
        raise Violation(
            "past block_size, decoding in single steps differs from the full pass",
            size=size,
            cause="a table of block_size rows, or something relative to the length of the sequence?",
        )


_SAME = 1e-6
"""Signatures closer than this, relative to their size, are the same."""

_FAR = 4200
"""Rotations may repeat beyond this place."""


@property_of("position", cases=standard_cases, strategy=any_case, quick=3)
def distinct(target: Target, case: Case) -> None:
    """A token's place makes a difference, and no place past block_size is taken for an earlier one."""
    size = min(case.block_size, 37)
    position = _position(target, replace(case, block_size=size, time=min(case.time, size)))
    end = min(3 * size, position.max_positions or 3 * size)
    if not position.hooks or min(size, end) < 2:
        raise Unsuitable("it has no hooks, or a single place")
    signatures = {hook: signature(position, case, end) for hook, signature in _SIGNATURES.items() if hook in position.hooks}
    if all(_apart(each, each).amax() < _SAME for each in signatures.values()):
        if case.params == parameter_sets(target)[0]:
            raise Violation("every place gets the same", cause="are `positions` used, or multiplied by zero?")
        raise Unsuitable("with these parameters it changes nothing")
    start = max(size, end - size)
    for hook, each in signatures.items():
        if size < 4 or end - size < 4 or _has_repeats(each[:size]):
            continue  # several places are alike on purpose, as in the buckets of T5
        same = _apart(each[start : end - 1], each[:start]) < _SAME
        if hook != "rotate":
            same[:, size - 1 :] = False  # far places may share a value, but not that of a near one
        if same.any(1).all():
            place = int(same[0].nonzero()[0])
            raise Violation(
                f"{hook}: with a block_size of {size}, place {start} and every later one repeat an earlier one, {start} "
                f"that of {place}",
                at=start,
                cause="a remainder, or a limit, of block_size? if it cannot represent more places, set max_positions",
            )
    if "rotate" in signatures and size >= 8 and not _has_repeats(signatures["rotate"][:size]):
        _check_far(_rotated(position, case, min(_FAR, position.max_positions or _FAR)))


def _check_far(rotated: Tensor) -> None:
    """Check that no eight places in a row are rotated like the first eight."""
    first = 8
    alike = torch.stack([_apart(rotated, rotated[[place]])[:, 0].roll(-place) < _SAME for place in range(first)], 1).all(1)
    repeats = alike[first : len(rotated) - first].nonzero()
    if len(repeats):
        raise Violation(
            f"from place {int(repeats[0]) + first} on, tokens are rotated as from place 0 on",
            at=int(repeats[0]) + first,
            cause="a table that is read modulo its length, or an integer type with few bits? if it cannot represent more "
            "places, set max_positions",
        )


def _embedded(position: Position, case: Case, places: int) -> Tensor:
    x = torch.randn(case.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(case.seed))
    return position.embed(x.expand(1, places, -1), torch.arange(places))[0]


def _rotated(position: Position, case: Case, places: int) -> Tensor:
    q, k = (part[:1, :, :1].double() for part in _queries_and_keys(case))
    turned = position.rotate(q.expand(-1, -1, places, -1), k.expand(-1, -1, places, -1), torch.arange(places))
    return torch.cat([part[0].transpose(0, 1).flatten(1) for part in turned], 1)


def _biased(position: Position, case: Case, places: int) -> Tensor:
    """Return the last query's biases by distance."""
    bias = position.bias(torch.arange(places), torch.arange(places))
    return torch.zeros(places, 1) if bias is None else bias[:, -1].flip(-1).T


_SIGNATURES: dict[str, Callable[[Position, Case, int], Tensor]] = {
    "embed": _embedded,
    "rotate": _rotated,
    "bias": _biased,
}
"""What each hook does with one vector at every place, or with every distance: [places, values]."""


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Return the largest difference between each row of one and each row of the other, relative to the two rows' size."""
    one, other = one.detach().double()[:, None], other.detach().double()[None]
    size = torch.maximum(one.abs().amax(-1), other.abs().amax(-1)).clamp(min=1e-300)
    return (one - other).abs().amax(-1) / size


def _has_repeats(signatures: Tensor) -> bool:
    apart = _apart(signatures, signatures)
    return bool((apart.fill_diagonal_(torch.inf) < _SAME).any())


@property_of("position", cases=standard_cases, strategy=any_case, quick=2)
def bias(target: Target, case: Case) -> None:
    """A bias is [H or 1, T, S]; each entry is finite and depends only on its query and key position."""
    position = _position(target, case)
    if "bias" not in position.hooks:
        raise Unsuitable("it adds no bias")
    places = torch.arange(case.time)
    whole = position.bias(places, places)
    if whole is None:
        raise Unsuitable("with these parameters it adds no bias")
    if whole.shape not in {(heads, case.time, case.time) for heads in (1, case.n_heads)}:
        raise Violation(
            f"a bias has shape {list(whole.shape)} for {case.n_heads} heads, {case.time} queries and {case.time} keys",
            cause="the shape must be [heads or 1, queries, keys]",
        )
    seen = places[:, None] >= places[None, :]
    if not torch.isfinite(whole[:, seen]).all():
        raise Violation(
            "a bias between a query and an earlier key is not finite", cause="a logarithm of a distance of zero?"
        )
    half, third = case.time // 2, case.time // 3
    for queries, keys in (
        (slice(half, case.time), slice(0, case.time)),
        (slice(case.time - 1, case.time), slice(0, case.time)),
        (slice(0, third + 1), slice(0, third + 1)),
        (slice(half, half + 1), slice(third, half + 1)),  # a window has dropped the first keys
    ):
        part = position.bias(places[queries], places[keys])
        if part is None or part.shape != whole[:, queries, keys].shape:
            raise Violation(
                f"for {len(places[queries])} queries and {len(places[keys])} keys, a bias has shape "
                f"{None if part is None else list(part.shape)}",
                cause="the shape must be [heads or 1, queries, keys]",
            )
        difference = (part - whole[:, queries, keys]).masked_fill(~seen[queries, keys], 0).detach().abs().amax()
        if difference > SAME_PATH * (1 + whole[:, seen].abs().amax()):
            raise Violation(
                f"the bias of queries from {queries.start} changes when only keys {keys.start} to {keys.stop - 1} are given",
                size=float(difference),
                cause="does it depend on the number of keys, on the largest position, or on the first key's position?",
            )


@property_of("position", cases=standard_cases, strategy=any_case, quick=2)
def rotation(target: Target, case: Case) -> None:
    """Each query and key is rotated by its position only; `keeps_norm` and `relative` hold if promised."""
    position = _position(target, case)
    q, k = _queries_and_keys(case)
    places = torch.arange(case.time)
    if "rotate" in position.hooks:
        whole = position.rotate(q, k, places)
        for start in (case.time // 2, case.time - 1):
            part = position.rotate(q[:, :, start:], k[:, :, start:], places[start:])
            if any(distance(a, b[:, :, start:]) > SAME_PATH for a, b in zip(part, whole, strict=True)):
                raise Violation(
                    f"the token at {start} is rotated differently when it is in a later chunk",
                    at=start,
                    cause="is it rotated by its index in the chunk instead of `positions`?",
                )
        if position.keeps_norm:
            for before, after in zip((q, k), whole, strict=True):
                if (before.norm(dim=-1) - after.norm(dim=-1)).abs().amax() > 1e-4 * before.norm(dim=-1).amax():
                    raise Violation(
                        "keeps_norm is promised, but a vector becomes longer or shorter",
                        cause="is each pair of coordinates rotated by the sine and cosine of one angle?",
                    )
    elif position.keeps_norm:
        raise Violation("keeps_norm is promised, but there is no rotate", cause="does the method have another name?")
    if position.relative:
        _check_relative(position, q, k, places)
    if "rotate" not in position.hooks and not position.relative:
        raise Unsuitable("it does not rotate and promises nothing")


def _queries_and_keys(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.time, case.head_dim)  # one key head for all queries: there may be fewer key heads than query heads
    q = torch.randn(case.batch, case.n_heads, *shape, generator=generator)
    return q, torch.randn(case.batch, 1, *shape, generator=generator)


def _check_relative(position: Position, q: Tensor, k: Tensor, places: Tensor) -> None:
    def scores(shift: int) -> Tensor:
        turned_q, turned_k = position.rotate(q, k, places + shift)
        added = position.bias(places + shift, places + shift)
        products = turned_q.double() @ turned_k.double().mT
        seen = places[:, None] >= places[None, :]
        return (products if added is None else products + added).masked_fill(~seen, 0)

    shift = min(37, (position.max_positions or 10**9) - len(places))
    if shift > 0 and (size := distance(scores(shift), scores(0))) > 1e-3:
        raise Violation(
            f"relative is promised, but scores change when all positions move by {shift}",
            size=size,
            cause="does something depend on a position and not on a distance?",
        )


@property_of("position", cases=standard_cases, strategy=any_case)
def rows(target: Target, case: Case) -> None:
    """With `per_row`, embed adds to each row what its own positions need."""
    position = _position(target, case)
    if not position.per_row:
        raise Unsuitable("it does not promise `per_row`")
    if "embed" not in position.hooks:
        raise Violation("per_row is promised, but there is no embed", cause="does the method have another name?")
    x, _ = inputs(build(target, case), case)
    cuts = [(row + 1) * case.time // (case.batch + 1) for row in range(case.batch)]
    counted = [torch.cat((torch.arange(cut), torch.arange(case.time - cut))) for cut in cuts]  # from 0 again at the cut
    together = position.embed(x, torch.stack(counted))
    for row, cut in enumerate(cuts):
        parts = (x[[row], :cut], x[[row], cut:])
        apart = torch.cat([position.embed(part, torch.arange(part.shape[1])) for part in parts], 1)
        if together.shape != x.shape or distance(together[[row]], apart) > SAME_PATH:
            raise Violation(
                f"with positions that restart at {cut}, row {row} differs from the same tokens alone",
                at=cut,
                cause="are the positions of one row used for all, or is an axis added before the last one?",
            )
