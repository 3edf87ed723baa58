"""The properties of all maps from sequences to sequences: shapes, causality, separate sequences."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.agreement import (
    OTHER_PATH,
    SAME_PATH,
    disagreement,
    distance,
    draws,
    first_difference,
    largest_scale,
    run,
)
from minigpt.check.cases import LONG, Case, any_case, cases_of_leaks, fewer_cases, positions_for, standard_cases
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Subject, WholeModel, build, copied, inputs
from minigpt.check.properties.precision import FAR, check_near_fp32
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import EXPERIMENT, PARTS_OF_A_MODEL, Target
from minigpt.contracts import Attention, Block, Embedding, FeedForward, Norm

PARTS = (*PARTS_OF_A_MODEL, EXPERIMENT)

_PREFIXES = (1, 3, 7, 15, 31, 32, 63)


@property_of(*PARTS, cases=standard_cases, strategy=any_case, quick=2)
def shape(target: Target, case: Case) -> None:
    """Outputs keep shape and dtype and stay finite, for all sizes and for extreme inputs."""
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    # Stacked layers that multiply overflow, so the largest inputs are for a single layer.
    large = 100.0 if target.family == "norm" else {1: 100.0, 2: 3.0}.get(case.n_layers, 1.0)
    _check_layers(subject, x, tokens)
    float64_subject = copied(subject).double()
    with contextlib.suppress(RuntimeError):  # torch refuses a mix with fp32 tensors: a limitation, not a wrong output
        run(float64_subject, x.double(), tokens)
        _check_layers(float64_subject, x.double(), tokens)
    for scale, what in ((1.0, "ordinary inputs"), (0.0, "inputs of zero"), (large, f"inputs of size {large:g}")):
        y = run(subject, scale * x, tokens)
        for loss in subject.losses:
            if loss.ndim:
                raise Violation(
                    f"it appends an auxiliary loss of shape {list(loss.shape)} to ctx.losses, which must be one number",
                    cause="is the mean over tokens or channels missing?",
                )
        check_finite(y, what)


def check_finite(y: Tensor, what: str) -> None:
    """Raise a Violation if an output [B, T, ...] for these inputs is not finite."""
    if not torch.isfinite(y).all():
        place = int((~torch.isfinite(y)).flatten(2).any(-1).any(0).nonzero()[0])
        raise Violation(
            f"for {what}, output {place} is not finite",
            at=place,
            cause="an exponential without subtracting the maximum, or a division by zero?",
        )


def _check_layers(subject: Subject, x: Tensor, tokens: Tensor) -> None:
    """Check the shape and dtype of each layer's output, because a residual connection hides wrong ones."""
    pairs: list[tuple[Tensor, Tensor]] = []
    layers = [part for part in subject.modules() if isinstance(part, Attention | FeedForward | Norm | Block)]
    hooks = [layer.register_forward_hook(lambda _, given, y: pairs.append((given[0], y))) for layer in layers]
    hooks += [
        part.register_forward_hook(lambda _, given, y: pairs.append((x, y)), prepend=True)  # before the probe's own hook
        for part in subject.modules()
        if isinstance(part, Embedding)
    ]
    logits = run(subject, x, tokens)
    for hook in hooks:
        hook.remove()
    if isinstance(subject, WholeModel):
        pairs += [(logits.new_empty(*tokens.shape, subject.model.dims.vocab_size, dtype=x.dtype), logits)]
    for given, y in pairs:
        if y.shape != given.shape:
            cause = "is an axis squeezed or swapped?"
            raise Violation(f"inputs of shape {list(given.shape)} become {list(y.shape)}", cause=cause)
        if y.dtype != given.dtype:
            cause = "is a result left in fp32, or multiplied by a constant of another dtype?"
            raise Violation(f"inputs of {given.dtype} become {y.dtype}", cause=cause)


@property_of(*PARTS, cases=cases_of_leaks, strategy=any_case, quick=11)  # these include an experiment's own sizes
def causality(target: Target, case: Case) -> None:
    """No output depends on later tokens."""
    subject = build(target, case)
    if case.time < 2:
        raise Unsuitable("a single token has no later token")
    scale = largest_scale(subject, *inputs(subject, case))
    for number, prefix in enumerate(_prefixes(target, case)):
        for kind in ("all", "extreme", "one") if number % 3 == 0 else ("all", "extreme"):
            _check_prefix(subject, case, prefix, kind, scale)
        if number % 3 == 0:
            _check_length(subject, case, prefix)


def _check_length(subject: Subject, case: Case, prefix: int) -> None:
    """Check that the outputs of a prefix are the same without later tokens."""

    def without_and_with_later(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        return run(subject, x[:, :prefix], tokens[:, :prefix]), run(subject, x, tokens)[:, :prefix]

    if not case.training and (size := disagreement(subject, without_and_with_later, OTHER_PATH)) is not None:
        place = first_difference(*without_and_with_later(subject, torch.float32, 0))
        raise Violation(
            f"output {place} changes when other tokens follow the first {prefix}",
            at=place,
            size=size,
            cause="does something depend on the number of tokens?",
        )


def _prefixes(target: Target, case: Case) -> list[int]:
    """Return prefix lengths: the tokens of a prefix stay unchanged, and later tokens change."""
    # Only the case of an experiment's full block_size is this long; the other cases use more prefixes.
    if case.time > 300 or (target.experiment is not None and case.time > 40):
        return [case.time // 2]  # a leak from any distance crosses the middle somewhere
    if case.time > LONG:
        return [31, case.time // 2, 256, case.time - 1]
    random_prefixes = random.Random(case.seed).sample(range(1, case.time), min(3, case.time - 1))
    return sorted({prefix for prefix in (*_PREFIXES, case.time - 1, *random_prefixes) if prefix < case.time})


def _check_prefix(subject: Subject, case: Case, prefix: int, kind: str, scale: float) -> None:
    def before_and_after(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        changed = _changed(subject, case, prefix, kind, x, tokens, scale, repetition)
        # Gradients are enabled in train mode, because a path may depend on torch.is_grad_enabled().
        before = run(subject, x, tokens, gradients=case.training)[:, :prefix].detach()
        return run(subject, *changed, gradients=case.training)[:, :prefix].detach(), before

    size = disagreement(subject, before_and_after)
    if size is not None:
        place = first_difference(*before_and_after(subject, torch.float32, 0))
        what = f"token {prefix} changes" if kind == "one" else f"token {prefix} and later ones change"
        raise Violation(
            f"output {place} changes when {what}{' to extreme values' if kind == 'extreme' else ''}",
            at=place,
            size=size,
            cause="is the mask strict, and does every path apply it? does anything run over the whole time axis?",
        )


def _changed(
    subject: Subject, case: Case, prefix: int, kind: str, x: Tensor, tokens: Tensor, scale: float, repetition: int = 0
) -> tuple[Tensor, Tensor]:
    """Return inputs that are equal before `prefix` and different at `prefix` and later."""
    other, other_tokens = inputs(subject, case, offset=2 * repetition + 1, dtype=x.dtype)
    if kind == "extreme":
        other = scale * other
    end = prefix + 1 if kind == "one" else x.shape[1]
    changed, changed_tokens = x.clone(), tokens.clone()
    changed[:, prefix:end], changed_tokens[:, prefix:end] = other[:, prefix:end], other_tokens[:, prefix:end]
    return changed, changed_tokens


@property_of(*PARTS, cases=standard_cases, strategy=any_case, quick=2)
def gradient(target: Target, case: Case) -> None:
    """The gradient of an output with respect to later inputs is zero."""
    subject = build(target, case)
    if case.time < 2:
        raise Unsuitable("a single token has no later token")
    for place in sorted({0, 1, case.time // 2, case.time - 2} & set(range(case.time - 1))):

        def later(subject: Subject, dtype: torch.dtype, repetition: int, place: int = place) -> tuple[Tensor, Tensor]:
            grad = _gradient(subject, case, place, dtype, repetition)[0]
            scale = 1 + grad[: place + 1].abs().amax()
            return grad[place + 1 :] / scale, torch.zeros_like(grad[place + 1 :])

        size = disagreement(subject, later)
        if size is not None:
            grad, _ = later(subject, torch.float32, 0)
            first = place + 1 + int((grad.abs().amax(-1) > 0).nonzero()[0]) if not grad.isnan().any() else place + 1
            raise Violation(
                f"output {place} has a gradient with respect to input {first}",
                at=first,
                size=size,
                cause="a mask that hides the value but not the gradient, or something computed over the whole sequence?",
            )


def _gradient(subject: Subject, case: Case, place: int, dtype: torch.dtype, repetition: int) -> Tensor:
    """Return the gradient of the first sequence's output at `place` with respect to all inputs [B, T, D]."""
    x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
    x.requires_grad_()
    y = run(subject, x, tokens, gradients=True)[0, place]
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(case.seed)).to(y.dtype)
    (grad,) = torch.autograd.grad((y * weights).sum(), x, materialize_grads=True)
    return grad


def _cases_in_bf16(target: Target) -> list[Case]:
    if target.experiment is not None:
        return fewer_cases(target)
    base, none, *others = parameter_sets(target)[0], *positions_for(target)
    far = Case(base, 2, 8, 16, 1, block_size=FAR, time=FAR, batch=1)
    return [*(replace(far, position=name) for name in others or [none]), *fewer_cases(target)]


@property_of(*PARTS, cases=_cases_in_bf16, strategy=any_case)
def autocast(target: Target, case: Case) -> None:
    """Under bf16 autocast, outputs stay finite, causal and near fp32, also past 256 tokens and from a bf16 state."""
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    if case.time == FAR:
        check_near_fp32(subject, x, tokens)
        return
    with torch.autocast("cpu", torch.bfloat16):
        before = run(subject, x, tokens)
        if not torch.isfinite(before).all():
            raise Violation("an output is not finite in bf16", cause="a constant or a sum that bf16 cannot represent?")
        scale = largest_scale(subject, x, tokens)
        for prefix in _prefixes(target, case)[:: 2 if case.time > 40 else 1] if case.time > 1 else []:
            for kind in ("all", "extreme"):
                after = run(subject, *_changed(subject, case, prefix, kind, x, tokens, scale))
                size = distance(after[:, :prefix], before[:, :prefix])
                if size > 2e-3:  # half a step of bf16
                    place = first_difference(after[:, :prefix], before[:, :prefix])
                    raise Violation(
                        f"in bf16, output {place} changes when token {prefix} and later ones change",
                        at=place,
                        size=size,
                        cause="is there a separate path for bf16, or a mask value that bf16 rounds away?",
                    )


_ROWS = {4: 1000, 8: 8, 16: 8, 240: 2}
"""Numbers of rows to try, and the most tokens in each; 240 rows are whole groups of almost any number of rows."""

_MORE_ROWS = (64, 2, 32, 6, 12, 128, 3, 5)
"""Each case tries one more of these numbers."""


@property_of(*PARTS, cases=fewer_cases, strategy=any_case)
def batch(target: Target, case: Case) -> None:
    """Sequences of a batch do not influence each other, neither in values nor in gradients, also if they are equal."""
    subject = build(target, case)
    scale = largest_scale(subject, *inputs(subject, case, batch=4))
    more = _MORE_ROWS[(case.time + case.seed) % len(_MORE_ROWS)]
    for rows, most in {**_ROWS, more: 4}.items():
        _check_neighbours(subject, replace(case, batch=rows, time=min(case.time, most)), scale)
    _check_single_rows(subject, case)
    _check_copies(subject, replace(case, batch=16, time=min(case.time, 16)))

    def neighbour_gradient(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        grad = _gradient(subject, replace(case, batch=4), case.time - 1, dtype, repetition)
        return grad[1:] / (1 + grad[0].abs().amax()), torch.zeros_like(grad[1:])

    if (size := disagreement(subject, neighbour_gradient)) is not None:
        raise Violation("a sequence's output has a gradient with respect to its neighbours", size=size, cause=_MIXED)


_MIXED = "is something normalised, summed, counted or sorted over the batch axis, or does a view mix axes?"


def _check_neighbours(subject: Subject, case: Case, scale: float) -> None:
    """Check that one half of the rows, drawn at random, does not change when the other half does, and the reverse."""
    halves = torch.randperm(case.batch, generator=torch.Generator().manual_seed(case.seed)).chunk(2)

    def change_neighbours(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        before = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        y = run(subject, *before, gradients=case.training).detach()
        after = y.clone()
        for kept, others in (halves, halves[::-1]):
            x, tokens = (part.clone() for part in before)
            x[others[::2]] *= scale
            x[others[1::2]] *= -1
            tokens[others] = (tokens[others] + 1) % 5
            after[kept] = run(subject, x, tokens, gradients=case.training)[kept].detach()
        return after, y

    if (size := disagreement(subject, change_neighbours)) is not None:
        raise Violation(
            f"in a batch of {case.batch}, a sequence's output changes when its neighbours change", size=size, cause=_MIXED
        )


def _check_single_rows(subject: Subject, case: Case) -> None:
    """Check that neither the order of the rows nor their number matters, unless a pass is random."""
    if _is_random(subject, case):  # other numbers would be drawn
        return

    def change_order(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, batch=4, dtype=dtype)
        order = [2, 0, 3, 1]
        return run(subject, x[order], tokens[order]), run(subject, x, tokens)[order]

    def one_by_one(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, batch=4, dtype=dtype)
        return torch.cat([run(subject, x[row, None], tokens[row, None]) for row in range(4)]), run(subject, x, tokens)

    for computations, tolerance, when in (
        (change_order, SAME_PATH, "the order of the batch changes"),
        (one_by_one, OTHER_PATH, "it is the only sequence of the batch"),
    ):
        if (size := disagreement(subject, computations, tolerance)) is not None:
            raise Violation(f"a sequence's output changes when {when}", size=size, cause=_MIXED)


def _check_copies(subject: Subject, case: Case) -> None:
    """Check that a row's output stays the same beside copies of the row, and that these have the same output."""
    is_random = _is_random(subject, case)

    def beside_copies(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        row, copies = slice(0, 1), torch.zeros(case.batch, dtype=torch.long)
        together = run(subject, x[copies], tokens[copies], gradients=case.training).detach()
        if is_random:  # the masks of dropout follow from the place in the batch
            return together[row], run(subject, x, tokens, gradients=case.training)[row].detach()
        return together, run(subject, x[row], tokens[row], gradients=case.training).detach().expand_as(together)

    if (size := disagreement(subject, beside_copies, OTHER_PATH)) is not None:
        raise Violation(
            f"a sequence's output is another one beside {case.batch - 1} copies of the sequence", size=size, cause=_MIXED
        )


def _is_random(subject: Subject, case: Case) -> bool:
    return case.training and draws(subject, *inputs(subject, case))
