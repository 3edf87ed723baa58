"""The property of training with a state: after earlier tokens, gradients are derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from minigpt.check.agreement import run
from minigpt.check.cases import Case, positions_for
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Subject, build, copied, inputs
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import EXPERIMENT, Target

_STEP, _TOLERANCE = 1e-7, 1e-4
"""Half the distance of a difference quotient, and its largest relative error in float64."""


def _cases(target: Target) -> list[Case]:
    if target.experiment is not None:
        return [Case(block_size=target.experiment.model.block_size, time=min(12, target.experiment.model.block_size))]
    position = positions_for(target)[-1]
    return [
        Case(params, 2, 4, 8, time=12, position=position, seed=number)
        for number, params in enumerate(parameter_sets(target))
    ]


@property_of("attention", "ffn", "block", "embedding", EXPERIMENT, cases=_cases)
def memory(target: Target, case: Case) -> None:
    """After earlier tokens, read without gradients, the gradient of the outputs that follow is their derivative."""
    subject = build(target, case)
    if case.time < 2 or not subject.new_state(1, case.time, torch.float32).children:
        raise Unsuitable("it has no state")
    exact = copied(subject).double()
    for earlier in sorted({case.time // 2, case.time - 1}):
        try:
            if _is_derivative(exact, case, earlier):
                continue
        except RuntimeError as error:
            _error(
                subject, case, earlier, dtype=torch.float32
            )  # may fail too; otherwise torch refused a mix of float64 and fp32
            raise Unsuitable("it cannot compute in float64") from error
        raise Violation(
            f"after {earlier} earlier tokens, the gradient of the outputs is not their derivative",
            cause="is something computed under torch.no_grad(), or detached, if there is a state?",
        )


def _is_derivative(subject: Subject, case: Case, earlier: int) -> bool:
    """Return whether the gradient is the derivative; true also if a full pass differs in the same way."""
    if _error(subject, case, earlier) < _TOLERANCE or _error(subject, case, 0) > _TOLERANCE:
        return True
    # A step may change a choice between near-ties, or the side of a kink, but not in every repetition.
    return any(_error(subject, case, earlier, repetition) < _TOLERANCE for repetition in (1, 2))


def _error(subject: Subject, case: Case, earlier: int, repetition: int = 0, *, dtype: torch.dtype = torch.float64) -> float:
    """Return the relative difference of gradient and difference quotient, along a random direction of inputs and weights.

    Only the part of the inputs after the earlier tokens moves, and these were read with the weights as they are.
    """
    x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
    state = subject.new_state(case.batch, case.time, dtype) if earlier else None
    if state is not None:
        run(subject, x[:, :earlier], tokens[:, :earlier], state)
        state = state.repeat(1)  # a copy, because the original may have views of weights, which move below
    x, tokens = x[:, earlier:].clone().requires_grad_(), tokens[:, earlier:]
    moving = [x, *(parameter for parameter in subject.parameters() if parameter.requires_grad)]
    generator = torch.Generator().manual_seed(case.seed + repetition)
    directions = [torch.randn(each.shape, generator=generator).to(dtype) for each in moving]
    shape = run(subject, x, tokens, None if state is None else state.repeat(1)).shape
    weights = torch.randn(shape, generator=generator).to(dtype)

    def moved(step: float) -> Tensor:
        with torch.no_grad():
            for each, direction in zip(moving, directions, strict=True):
                each.add_(direction, alpha=step)
            return (run(subject, x, tokens, None if state is None else state.repeat(1)) * weights).sum()

    quotient = (moved(_STEP) - moved(-2 * _STEP)) / (2 * _STEP)
    moved(_STEP)
    value = (run(subject, x, tokens, state, gradients=True) * weights).sum()
    gradients = torch.autograd.grad(value, moving, materialize_grads=True)
    along = torch.stack([(one * other).sum() for one, other in zip(gradients, directions, strict=True)])
    return float((along.sum() - quotient).abs() / (along.abs().sum() + quotient.abs()).clamp(min=1e-6))
