"""The properties of single families: attentions, norms, feed-forwards, blocks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.agreement import EXTREME, OTHER_PATH, SAME_PATH, disagreement, distance, run
from minigpt.check.cases import Case, any_case, standard_cases
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Stack, Subject, build, inputs
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Norm

# ----------------------------------------------------------------------------------------------------------- attention


def _one_case(target: Target) -> list[Case]:
    return [Case(parameter_sets(target)[0], 4, 4, 16, 1, time=12)]


@property_of("attention", cases=_one_case)
def uses(target: Target, case: Case) -> None:
    """An attention applies a position's rotation or bias, and keeps segments apart, if its `uses` says so."""
    promised: frozenset[str] = getattr(target.entry.cls, "uses", frozenset()) if target.entry else frozenset()
    for hook, position in (("rotate", "rope"), ("bias", "alibi")):
        if hook not in promised:
            continue
        plain, placed = (build(target, replace(case, position=name)) for name in ("none", position))
        placed.load_state_dict(plain.state_dict(), strict=False)
        x, tokens = inputs(plain, case)
        if distance(run(placed, x, tokens), run(plain, x, tokens)) < SAME_PATH:
            raise Violation(
                f'`uses` names "{hook}", but outputs with {position} are the same as without positions',
                cause=f"is ctx.position.{hook} called, and is its result used?",
            )
    if "segments" in promised:
        _check_segments(target, case)
    if not promised:
        raise NotTried("its `uses` is empty")


def _check_segments(target: Target, case: Case) -> None:
    """Compare segments in one row with each segment alone, in a full pass and token by token."""
    subject = build(target, case)
    assert isinstance(subject, Stack)
    x, tokens = inputs(subject, case)
    ends = case.time // 3 + torch.arange(len(x))[:, None]  # of the first segment, in each row elsewhere
    first = torch.arange(case.time) < ends
    segments = (~first).long()
    state = subject.new_state(len(x), case.time, x.dtype)
    apart = run(subject, x, tokens)  # causal, so the first segment is not affected by later tokens
    subject.segments = segments
    together = run(subject, x, tokens)
    if distance(together[first], apart[first]) > SAME_PATH:
        raise Violation("the first segment's outputs change with segments", cause="does it hide keys of the same segment?")
    changed = torch.where(first[..., None], -x, x)
    if distance(run(subject, changed, tokens)[~first], together[~first]) > SAME_PATH:
        raise Violation(
            '`uses` names "segments", but an output depends on tokens of another segment',
            at=int(ends[0]),
            cause="are ctx.segments given to remember, and its segments of the keys to attend?",
        )
    steps = []
    for place in range(case.time):
        subject.segments = segments[:, place : place + 1]
        steps.append(run(subject, x[:, [place]], tokens[:, [place]], state))
    if distance(torch.cat(steps, 1), together) > OTHER_PATH:
        raise Violation(
            "with segments, decoding in single steps differs from the full pass",
            cause="does the state keep the segments of its keys?",
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
