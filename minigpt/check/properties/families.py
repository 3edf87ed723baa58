"""What one family promises beyond the rest: positions, norms, feed-forwards, blocks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.agreement import EXTREME, SAME, disagreement, distance, run
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Case, Stack, Subject, any_case, build, inputs, standard_cases
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Norm, Position

# ----------------------------------------------------------------------------------------------------------- attention


def _one_case(target: Target) -> list[Case]:
    return [Case(parameter_sets(target)[0], 4, 4, 16, 1, time=12)]


@property_of("attention", cases=_one_case)
def uses(target: Target, case: Case) -> None:
    """An attention that says it honours a position's rotation or bias does."""
    named: frozenset[str] = getattr(target.entry.cls, "uses", frozenset()) if target.entry else frozenset()
    for hook, position in (("rotate", "rope"), ("bias", "alibi")):
        if hook not in named:
            continue
        plain, placed = (build(target, replace(case, position=name)) for name in ("none", position))
        placed.load_state_dict(plain.state_dict(), strict=False)
        x, tokens = inputs(plain, case)
        if distance(run(placed, x, tokens), run(plain, x, tokens)) < SAME:
            raise Violation(
                f'`uses` names "{hook}", and outputs with {position} are those without positions',
                cause=f"is ctx.position.{hook} called, and is what it gives used?",
            )
    if not named:
        raise NotTried("it honours no position")


# ------------------------------------------------------------------------------------------------------------ position


def _position(target: Target, case: Case) -> Position:
    subject = build(target, case)
    assert isinstance(subject, Stack)
    return subject.position


@property_of("position", cases=standard_cases, strategy=any_case)
def beyond(target: Target, case: Case) -> None:
    """Past block_size, up to where it says its positions end, outputs stay finite and decoding equals the full pass."""
    ends = _position(target, case).max_positions
    if ends is not None and ends <= case.block_size:
        raise Unsuitable(f"its positions end at {ends}")
    time = min(3 * case.block_size, ends or 3 * case.block_size, 150)
    longer = replace(case, block_size=min(case.block_size, 50), time=time)
    subject = build(target, longer).eval()
    x, tokens = inputs(subject, longer)
    y = run(subject, x, tokens)
    if y.shape != x.shape or not torch.isfinite(y).all():
        raise Violation(
            f"with {time} tokens and a block_size of {longer.block_size} outputs are not finite, or of another shape",
            cause="a table of block_size rows? say where positions end in max_positions",
        )
    state = subject.new_state(longer.batch, time, x.dtype)
    steps = torch.cat([run(subject, x[:, [t]], tokens[:, [t]], state) for t in range(time)], 1)
    if distance(steps, y) > 1e-3:
        raise Violation(
            "past block_size, decoding step by step is not the full pass",
            size=distance(steps, y),
            cause="a table of block_size rows, or something relative to the length of the sequence?",
        )


@property_of("position", cases=standard_cases, strategy=any_case, quick=2)
def bias(target: Target, case: Case) -> None:
    """A bias has the shape [H or 1, T, S]; each entry is finite and follows from its own query and key position alone."""
    position = _position(target, case)
    if "bias" not in position.hooks:
        raise Unsuitable("it adds no bias")
    places = torch.arange(case.time)
    whole = position.bias(places, places)
    if whole is None:
        raise Unsuitable("with these parameters it adds no bias")
    if whole.shape not in {(heads, case.time, case.time) for heads in (1, case.n_heads)}:
        raise Violation(
            f"a bias of shape {list(whole.shape)} for {case.n_heads} heads, {case.time} queries and as many keys",
            cause="allowed is [heads or 1, queries, keys]",
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
                f"for {len(places[queries])} queries and {len(places[keys])} keys a bias of shape "
                f"{None if part is None else list(part.shape)}",
                cause="allowed is [heads or 1, queries, keys]",
            )
        difference = (part - whole[:, queries, keys]).masked_fill(~seen[queries, keys], 0).detach().abs().amax()
        if difference > SAME * (1 + whole[:, seen].abs().amax()):
            raise Violation(
                f"queries from {queries.start} on get another bias among keys {keys.start} to {keys.stop - 1} than with all",
                size=float(difference),
                cause="does it depend on the number of keys, on the largest position, or on where the keys begin?",
            )


@property_of("position", cases=standard_cases, strategy=any_case, quick=2)
def rotation(target: Target, case: Case) -> None:
    """Each query and key is turned by its own position alone; lengths stay, and distances decide, where that is promised."""
    position = _position(target, case)
    q, k = _queries_and_keys(case)
    places = torch.arange(case.time)
    if "rotate" in position.hooks:
        whole = position.rotate(q, k, places)
        for start in (case.time // 2, case.time - 1):
            part = position.rotate(q[:, :, start:], k[:, :, start:], places[start:])
            if any(distance(a, b[:, :, start:]) > SAME for a, b in zip(part, whole, strict=True)):
                raise Violation(
                    f"the token at {start} is turned otherwise when it comes in a later chunk",
                    at=start,
                    cause="is it turned by its index in the chunk, in place of `positions`?",
                )
        if position.keeps_norm:
            for before, after in zip((q, k), whole, strict=True):
                if (before.norm(dim=-1) - after.norm(dim=-1)).abs().amax() > 1e-4 * before.norm(dim=-1).amax():
                    raise Violation(
                        "keeps_norm is promised, and a vector becomes longer or shorter",
                        cause="is each pair of coordinates turned by one angle, its sine and its cosine?",
                    )
    elif position.keeps_norm:
        raise Violation("keeps_norm is promised, and there is no rotate", cause="is the method called otherwise?")
    if position.relative:
        _check_relative(position, q.double(), k.double(), places)
    if "rotate" not in position.hooks and not position.relative:
        raise Unsuitable("it does not rotate, and promises nothing")


def _queries_and_keys(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.time, case.head_dim)  # one head of keys for all: there may be fewer than of queries
    q = torch.randn(case.batch, case.n_heads, *shape, generator=generator)
    return q, torch.randn(case.batch, 1, *shape, generator=generator)


def _check_relative(position: Position, q: Tensor, k: Tensor, places: Tensor) -> None:
    def scores(shift: int) -> Tensor:
        turned_q, turned_k = position.rotate(q.float(), k.float(), places + shift)
        added = position.bias(places + shift, places + shift)
        products = turned_q.double() @ turned_k.double().mT
        seen = places[:, None] >= places[None, :]
        return (products if added is None else products + added).masked_fill(~seen, 0)

    shift = min(37, (position.max_positions or 10**9) - len(places))
    if shift > 0 and (size := distance(scores(shift), scores(0))) > 1e-3:
        raise Violation(
            f"relative is promised, and scores change when all positions move by {shift}",
            size=size,
            cause="does something depend on a position by itself?",
        )


# ---------------------------------------------------------------------------------------------------------------- norm


@property_of("norm", cases=standard_cases, strategy=any_case, quick=2)
def vectorwise(target: Target, case: Case) -> None:
    """A norm treats each vector by itself, whatever the axes before the last."""
    subject = build(target, case)
    norm = _norm(subject)
    x, _ = inputs(subject, case, batch=3)
    y = norm(x)
    if distance(norm(x.mT.contiguous().mT), y) > SAME:
        raise Violation("an input that is not contiguous gives something else", cause="a view in place of a reshape?")
    for axes in ((-1,), (3, case.time, 1), (1, 3, case.time)):
        if distance(norm(x.reshape(*axes, case.d_model)).reshape(x.shape), y) > SAME:
            raise Violation(
                f"with the leading axes {list(axes)} vectors become others", cause="only the last axis is normalised"
            )

    def others_change(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, _ = inputs(subject, case, offset=2 * repetition, batch=3, dtype=dtype)
        changed = EXTREME * x
        changed[1, case.time // 2] = x[1, case.time // 2]
        norm = _norm(subject)
        return norm(changed)[1, case.time // 2][None, None], norm(x)[1, case.time // 2][None, None]

    if (size := disagreement(subject, others_change)) is not None:
        raise Violation("a vector's norm changes when others do", size=size, cause="a mean over time, or over the batch?")


def _norm(subject: Subject) -> Norm:
    return next(module for module in subject.modules() if isinstance(module, Norm))


@property_of("norm", cases=standard_cases, strategy=any_case)
def scaling(target: Target, case: Case) -> None:
    """Inputs a times as large give the same output, or one a times as large, where the norm promises that."""
    subject = build(target, case)
    norm = _norm(subject)
    if norm.scaling is None:
        raise Unsuitable("it makes no promise of `scaling`")
    x, _ = inputs(subject, case)
    if norm.scaling == "invariant":
        x = 1e4 * x  # far above any eps that is there for zeros
    with torch.no_grad():
        for factor in (0.5, 3.0, 100.0):
            wanted = norm(x) * (factor if norm.scaling == "equivariant" else 1.0)
            size = float((norm(factor * x) - wanted).abs().amax() / wanted.abs().amax().clamp(min=1e-20))
            if size > 1e-2:
                raise Violation(
                    f'scaling "{norm.scaling}" is promised, and inputs {factor:g} times as large give something else',
                    size=size,
                    cause="a bias, a clamp, an eps too large, or a mean that is no root mean square?",
                )


# ----------------------------------------------------------------------------------------------------------------- ffn


@property_of("ffn", cases=standard_cases, strategy=any_case, quick=2)
def tokenwise(target: Target, case: Case) -> None:
    """A feed-forward without a state treats each token by itself."""
    subject = build(target, case)
    if subject.new_state(1, 8, torch.float32).children:
        raise Unsuitable("it keeps a state: it may look back")
    for place in {case.time // 2, case.time - 1}:

        def others_change(
            subject: Subject, dtype: torch.dtype, repetition: int, place: int = place
        ) -> tuple[Tensor, Tensor]:
            x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
            other, other_tokens = inputs(subject, case, offset=2 * repetition + 1, dtype=dtype)
            other[:, place], other_tokens[:, place] = x[:, place], tokens[:, place]
            return run(subject, other, other_tokens)[:, [place]], run(subject, x, tokens)[:, [place]]

        if (size := disagreement(subject, others_change)) is not None:
            raise Violation(
                f"output {place} changes when other tokens do",
                at=place,
                size=size,
                cause="what looks back keeps a State (see new_state); what looks at all tokens at once is no feed-forward",
            )


# --------------------------------------------------------------------------------------------------------------- block


@property_of("block", cases=standard_cases, strategy=any_case)
def identity(target: Target, case: Case) -> None:
    """A block that promises it gives back its input with its initial weights."""
    assert target.entry is not None
    if not getattr(target.entry.cls, "starts_as_identity", False):
        raise NotTried("it makes no promise of `starts_as_identity`")
    subject = build(target, case, initial=True).eval()
    x, tokens = inputs(subject, case)
    seen: list[Tensor] = []
    blocks = [part for part in subject.modules() if isinstance(part, target.entry.cls)]
    handle = blocks[-1].register_forward_hook(lambda module, given, output: seen.append(output))
    run(subject, x, tokens)
    handle.remove()
    if (size := distance(seen[0], x)) > SAME:
        raise Violation(
            "starts_as_identity is promised, and what comes out is not what went in",
            size=size,
            cause="is a gain or an output map that ought to start at zero set in init_weights?",
        )
