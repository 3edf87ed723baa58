"""The properties of all maps from sequences to sequences: shapes, causality, separate sequences."""

from __future__ import annotations

import contextlib
import copy
import random
from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.agreement import OTHER_PATH, SAME_PATH, disagreement, distance, first_difference, largest_scale, run
from minigpt.check.cases import LONG, Case, any_case, cases_of_leaks, fewer_cases, standard_cases
from minigpt.check.probe import Subject, WholeModel, build, inputs
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
    large = {1: 100.0, 2: 3.0}.get(case.n_layers, 1.0)
    _check_layers(subject, x, tokens)
    float64_subject = copy.deepcopy(subject).double()
    with contextlib.suppress(RuntimeError):  # torch refuses a mix with fp32 tensors: a limitation, not a wrong output
        run(float64_subject, x.double(), tokens)
        _check_layers(float64_subject, x.double(), tokens)
    for scale, what in ((1.0, "ordinary inputs"), (0.0, "inputs of zero"), (large, f"inputs of size {large:g}")):
        y = run(subject, scale * x, tokens)
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


@property_of(*PARTS, cases=fewer_cases, strategy=any_case)
def autocast(target: Target, case: Case) -> None:
    """Under bf16 autocast, outputs stay finite and causal."""
    subject = build(target, case)
    x, tokens = inputs(subject, case)
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


@property_of(*PARTS, cases=fewer_cases, strategy=any_case)
def batch(target: Target, case: Case) -> None:
    """Sequences of a batch do not influence each other, neither in values nor in gradients."""
    subject = build(target, case)

    def four_sequences(dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        return inputs(subject, case, offset=2 * repetition, batch=4, dtype=dtype)

    scale = largest_scale(subject, *four_sequences(torch.float32, 0))

    def change_neighbours(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = four_sequences(dtype, repetition)
        y = run(subject, x, tokens, gradients=case.training)[:1].detach()
        x, tokens = x.clone(), tokens.clone()
        x[1], x[2], tokens[1:] = scale * x[1], -x[2], (tokens[1:] + 1) % 5
        return run(subject, x, tokens, gradients=case.training)[:1].detach(), y

    def change_order(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = four_sequences(dtype, repetition)
        order = [2, 0, 3, 1]
        return run(subject, x[order], tokens[order]), run(subject, x, tokens)[order]

    def one_by_one(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = four_sequences(dtype, repetition)
        return torch.cat([run(subject, x[row, None], tokens[row, None]) for row in range(4)]), run(subject, x, tokens)

    cause = "is something normalised, summed or sorted over the batch axis, or does a view mix axes?"
    tests = [(change_neighbours, SAME_PATH, "its neighbours change")]
    if not case.training:  # in another order, dropout would draw other masks
        tests += [(change_order, SAME_PATH, "the order of the batch changes")]
        tests += [(one_by_one, OTHER_PATH, "it is the only sequence of the batch")]
    for computations, tolerance, when in tests:
        if (size := disagreement(subject, computations, tolerance)) is not None:
            raise Violation(f"a sequence's output changes when {when}", size=size, cause=cause)

    def neighbour_gradient(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        grad = _gradient(subject, replace(case, batch=4), case.time - 1, dtype, repetition)
        return grad[1:] / (1 + grad[0].abs().amax()), torch.zeros_like(grad[1:])

    if (size := disagreement(subject, neighbour_gradient)) is not None:
        raise Violation("a sequence's output has a gradient with respect to its neighbours", size=size, cause=cause)
