"""The properties of single families: attentions, norms, feed-forwards, blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minigpt.check.agreement import EXTREME, OTHER_PATH, SAME_PATH, disagreement, distance, run
from minigpt.check.cases import Case, any_case, standard_cases
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Subject, build, inputs
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of
from minigpt.check.targets import EXPERIMENT, Target
from minigpt.contracts import Attention, ModelState, Norm
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
        raise Unsuitable("its `uses` names nothing, and segments are refused or the context is too short for them")


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
        other, other_tokens = torch.where(first[..., None], -x, x), torch.where(first, (tokens + 1) % case.vocab, tokens)
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


# ---------------------------------------------------------------------------------------------------------------- norm


@property_of("norm", cases=standard_cases, strategy=any_case, quick=2)
def vectorwise(target: Target, case: Case) -> None:
    """A norm treats each vector separately, for any axes before the last."""
    subject = build(target, case)

    def not_contiguous(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, _ = inputs(subject, case, offset=2 * repetition, batch=3, dtype=dtype)
        return _norm(subject)(x.mT.contiguous().mT), _norm(subject)(x)

    if (size := disagreement(subject, not_contiguous)) is not None:
        cause = "a view instead of a reshape?"
        raise Violation("an input that is not contiguous gives another output", size=size, cause=cause)
    for axes in ((-1,), (3, case.time, 1), (1, 3, case.time)):

        def reshaped(
            subject: Subject, dtype: torch.dtype, repetition: int, axes: tuple[int, ...] = axes
        ) -> tuple[Tensor, Tensor]:
            x, _ = inputs(subject, case, offset=2 * repetition, batch=3, dtype=dtype)
            return _norm(subject)(x.reshape(*axes, case.d_model)).reshape(x.shape), _norm(subject)(x)

        if (size := disagreement(subject, reshaped)) is not None:
            cause = "does it normalise the last axis only?"
            raise Violation(f"with the leading axes {list(axes)}, outputs differ", size=size, cause=cause)

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
