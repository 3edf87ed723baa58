"""The properties of single families: attentions, positions, norms, feed-forwards, blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minigpt.check.agreement import EXTREME, OTHER_PATH, SAME_PATH, disagreement, distance, run
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import VOCAB, Case, Stack, Subject, any_case, build, inputs, standard_cases
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of
from minigpt.check.targets import EXPERIMENT, Target
from minigpt.contracts import Attention, ModelState, Norm, Position
from minigpt.model.combining import across_segments

# ----------------------------------------------------------------------------------------------------------- attention


def _cases_of_uses(target: Target) -> list[Case]:
    if target.experiment is not None:
        size = target.experiment.model.block_size
        return [Case(block_size=size, time=min(12, size))]
    return [Case(params, 4, 4, 16, 1, time=12) for params in parameter_sets(target)]


_APPLIED: dict[str, tuple[str, dict[str, Any], str]] = {
    "rotate": ("positions", {"position": "rope"}, "is ctx.position.rotate called, and is its result used?"),
    "bias": ("positions", {"position": "alibi"}, "is ctx.position.bias called, and is its result used?"),
    "score_factor": (
        "a factor on scores",
        {"score_factor": 0.5},
        "are scores multiplied by dims.score_factor, beside 1/sqrt(head_dim)?",
    ),
}
"""What an attention may use: its name in words, a case that has it, and the usual mistake."""


@property_of("attention", "ffn", "block", "embedding", EXPERIMENT, cases=_cases_of_uses)
def uses(target: Target, case: Case) -> None:
    """What `uses` names is applied: a rotation, a bias, a factor on scores. Segments are kept apart, or refused."""
    plain = build(target, case)
    promised: frozenset[str] = frozenset()
    if target.family == "attention":
        promised = next(part.uses for part in plain.modules() if isinstance(part, Attention)) & _APPLIED.keys()
    for name in sorted(promised):
        what, settings, cause = _APPLIED[name]
        changed = build(target, replace(case, **settings))
        changed.load_state_dict(plain.state_dict(), strict=False)
        x, tokens = inputs(plain, case)
        if distance(run(changed, x, tokens), run(plain, x, tokens)) < SAME_PATH:
            raise Violation(f'`uses` names "{name}", but outputs with {what} are the same as without', cause=cause)
    if not any(across_segments(plain)) and case.time > 5:
        _check_segments(plain, case)
    elif not promised:
        raise NotTried("it refuses segments, and its `uses` names nothing")


def _check_segments(subject: Subject, case: Case) -> None:
    """Compare segments in one row with each segment alone, in a full pass and token by token."""
    ends = case.time // 3 + torch.arange(case.batch)[:, None]  # of the first segment, another one in each row
    first = torch.arange(case.time) < ends
    segments = (~first).long()

    def shown_and_not(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        return _in_segments(subject, x, tokens, segments)[first], run(subject, x, tokens)[first]

    def with_another_first(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        other, other_tokens = torch.where(first[..., None], -x, x), torch.where(first, (tokens + 1) % VOCAB, tokens)
        after_another = _in_segments(subject, other, other_tokens, segments)
        return after_another[~first], _in_segments(subject, x, tokens, segments)[~first]

    def in_steps(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        state = subject.new_state(case.batch, case.time, dtype)
        steps = [
            _in_segments(subject, x[:, [place]], tokens[:, [place]], segments[:, [place]], state)
            for place in range(case.time)
        ]
        return torch.cat(steps, 1), _in_segments(subject, x, tokens, segments)

    for computations, tolerance, text, cause in (
        (shown_and_not, SAME_PATH, "the first segment's outputs change", "does it hide tokens of the same segment?"),
        (
            with_another_first,
            SAME_PATH,
            "an output depends on tokens of another segment",
            "is ctx.segments used? an attention gives it to remember, and the segments of the keys to attend",
        ),
        (
            in_steps,
            OTHER_PATH,
            "decoding in single steps differs from the full pass",
            "does the state keep the segments of what it has?",
        ),
    ):
        if (size := disagreement(subject, computations, tolerance)) is not None:
            raise Violation(f"with segments, {text}", at=int(ends[0]), size=size, cause=cause)


def _in_segments(subject: Subject, x: Tensor, tokens: Tensor, segments: Tensor, state: ModelState | None = None) -> Tensor:
    subject.segments = segments
    y = run(subject, x, tokens, state)
    subject.segments = None
    return y


# ------------------------------------------------------------------------------------------------------------ position


def _position(target: Target, case: Case) -> Position:
    subject = build(target, case)
    assert isinstance(subject, Stack)
    return subject.position


@property_of("position", cases=standard_cases, strategy=any_case)
def beyond(target: Target, case: Case) -> None:
    """Past block_size (up to max_positions if set), outputs are finite and decoding equals the full pass."""
    limit = _position(target, case).max_positions
    if limit is not None and limit <= case.block_size:
        raise Unsuitable(f"its max_positions is {limit}")
    time = min(3 * case.block_size, limit or 3 * case.block_size, 150)
    longer = replace(case, block_size=min(case.block_size, 50), time=time)
    subject = build(target, longer).eval()
    x, tokens = inputs(subject, longer)
    y = run(subject, x, tokens)
    if y.shape != x.shape or not torch.isfinite(y).all():
        raise Violation(
            f"with {time} tokens and a block_size of {longer.block_size}, outputs are not finite or have another shape",
            cause="a table of block_size rows? then set max_positions to its length",
        )
    state = subject.new_state(longer.batch, time, x.dtype)
    steps = torch.cat([run(subject, x[:, [t]], tokens[:, [t]], state) for t in range(time)], 1)
    if distance(steps, y) > 1e-3:
        raise Violation(
            "past block_size, decoding in single steps differs from the full pass",
            size=distance(steps, y),
            cause="a table of block_size rows, or something relative to the length of the sequence?",
        )


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
        _check_relative(position, q.double(), k.double(), places)
    if "rotate" not in position.hooks and not position.relative:
        raise Unsuitable("it does not rotate and promises nothing")


def _queries_and_keys(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.time, case.head_dim)  # one key head for all queries: there may be fewer key heads than query heads
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
        alone = torch.cat([position.embed(part, torch.arange(part.shape[1])) for part in parts], 1)
        if together.shape != x.shape or distance(together[[row]], alone) > SAME_PATH:
            raise Violation(
                f"with positions that restart at {cut}, row {row} differs from the same tokens alone",
                at=cut,
                cause="are the positions of one row used for all, or is an axis added before the last one?",
            )


# ---------------------------------------------------------------------------------------------------------------- norm


@property_of("norm", cases=standard_cases, strategy=any_case, quick=2)
def vectorwise(target: Target, case: Case) -> None:
    """A norm treats each vector separately, for any axes before the last."""
    subject = build(target, case)
    norm = _norm(subject)
    x, _ = inputs(subject, case, batch=3)
    y = norm(x)
    if distance(norm(x.mT.contiguous().mT), y) > SAME_PATH:
        raise Violation("an input that is not contiguous gives another output", cause="a view instead of a reshape?")
    for axes in ((-1,), (3, case.time, 1), (1, 3, case.time)):
        if distance(norm(x.reshape(*axes, case.d_model)).reshape(x.shape), y) > SAME_PATH:
            raise Violation(
                f"with the leading axes {list(axes)}, outputs differ", cause="does it normalise the last axis only?"
            )

    def change_others(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, _ = inputs(subject, case, offset=2 * repetition, batch=3, dtype=dtype)
        changed = EXTREME * x
        changed[1, case.time // 2] = x[1, case.time // 2]
        norm = _norm(subject)
        return norm(changed)[1, case.time // 2][None, None], norm(x)[1, case.time // 2][None, None]

    if (size := disagreement(subject, change_others)) is not None:
        raise Violation(
            "a vector's output changes when other vectors do", size=size, cause="a mean over time, or over the batch?"
        )


def _norm(subject: Subject) -> Norm:
    return next(module for module in subject.modules() if isinstance(module, Norm))


@property_of("norm", cases=standard_cases, strategy=any_case)
def scaling(target: Target, case: Case) -> None:
    """If the norm promises it, an input scaled by a gives the same output, or the output scaled by a."""
    subject = build(target, case)
    norm = _norm(subject)
    if norm.scaling is None:
        raise Unsuitable("it does not promise `scaling`")
    x, _ = inputs(subject, case)
    if norm.scaling == "invariant":
        x = 1e4 * x  # far above any eps that protects against zeros
    with torch.no_grad():
        for factor in (0.5, 3.0, 100.0):
            wanted = norm(x) * (factor if norm.scaling == "equivariant" else 1.0)
            size = float((norm(factor * x) - wanted).abs().amax() / wanted.abs().amax().clamp(min=1e-20))
            if size > 1e-2:
                raise Violation(
                    f'scaling "{norm.scaling}" is promised, but fails for inputs scaled by {factor:g}',
                    size=size,
                    cause="a bias, a clamp, an eps that is too large, or a mean instead of a root mean square?",
                )


# ----------------------------------------------------------------------------------------------------------------- ffn


@property_of("ffn", cases=standard_cases, strategy=any_case, quick=2)
def tokenwise(target: Target, case: Case) -> None:
    """A feed-forward without a state treats each token separately."""
    subject = build(target, case)
    if subject.new_state(1, 8, torch.float32).children:
        raise Unsuitable("it has a state, so it may look back")
    for place in {case.time // 2, case.time - 1}:

        def change_others(
            subject: Subject, dtype: torch.dtype, repetition: int, place: int = place
        ) -> tuple[Tensor, Tensor]:
            x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
            other, other_tokens = inputs(subject, case, offset=2 * repetition + 1, dtype=dtype)
            other[:, place], other_tokens[:, place] = x[:, place], tokens[:, place]
            return run(subject, other, other_tokens)[:, [place]], run(subject, x, tokens)[:, [place]]

        if (size := disagreement(subject, change_others)) is not None:
            raise Violation(
                f"output {place} changes when other tokens do",
                at=place,
                size=size,
                cause="does it look back without a State (see new_state), or look at all tokens at once?",
            )


# --------------------------------------------------------------------------------------------------------------- block


@property_of("block", cases=standard_cases, strategy=any_case)
def identity(target: Target, case: Case) -> None:
    """With initial weights, a block that promises `starts_as_identity` returns its input."""
    assert target.entry is not None
    if not getattr(target.entry.cls, "starts_as_identity", False):
        raise NotTried("it does not promise `starts_as_identity`")
    subject = build(target, case, initial=True).eval()
    x, tokens = inputs(subject, case)
    ends: list[Tensor] = []
    blocks = [part for part in subject.modules() if isinstance(part, target.entry.cls)]
    handles = [
        blocks[0].register_forward_pre_hook(lambda module, given: ends.append(given[0])),
        blocks[-1].register_forward_hook(lambda module, given, output: ends.append(output)),
    ]
    run(subject, x, tokens)
    for handle in handles:
        handle.remove()
    if (size := distance(ends[-1], ends[0])) > SAME_PATH:
        raise Violation(
            "starts_as_identity is promised, but the output is not the input",
            size=size,
            cause="does init_weights set the gain or the output map to zero?",
        )
