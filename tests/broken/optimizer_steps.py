"""Optimizers with mistakes that show after many steps, in some groups, or in the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minigpt.contracts import NamedParameter
from tests.broken import broken
from tests.broken.optimizer import Descent, Momentum


class _SlowOnSelf(Descent):
    steps = 0

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.slow: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.slow.setdefault(p, p.clone())
        super().step()
        group["step"] = group.get("step", 0) + 1
        if group["step"] % 50 == 0:
            for p, slow in self.slow.items():
                p.copy_(slow.lerp_(p, 0.5))


@broken("optimizer", "resumable", "slow weights, met every fifty steps, are not in the state; only the count of steps is")
class SlowOnSelf(Momentum):
    kind = _SlowOnSelf


class _SwitchesLate(Descent):
    steps = 0

    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        direction = super().direction(p, gradient, group)
        return gradient if self.steps >= 1000 else direction

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        super().step()
        self.steps += 1


@broken("optimizer", "resumable", "after a thousand steps it uses no momentum, and the count is not in the state")
class SwitchesLate(Momentum):
    kind = _SwitchesLate


class _AttributeOfTheWeights(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        before = getattr(p, "gradient_before", torch.zeros_like(p))
        p.gradient_before = gradient.clone()  # type: ignore[attr-defined]
        return gradient + 0.5 * before


@broken("optimizer", "resumable", "the gradient before is an attribute of the parameter, which no checkpoint has")
class AttributeOfTheWeights(Momentum):
    kind = _AttributeOfTheWeights


class _FirstRate(Descent):
    rate: float | None = None

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        self.rate = self.rate or group["lr"]
        super().move(p, gradient, {**group, "lr": self.rate})


@broken("optimizer", "step", "the rate of the first step that has one is kept for all steps")
class KeepsTheFirstRate(Momentum):
    kind = _FirstRate


class _RateOfTheFirstGroup(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().move(p, gradient, {**group, "lr": self.param_groups[0]["lr"]})


@broken("optimizer", "step", "all groups use the rate of the first one")
class RateOfTheFirstGroup(Momentum):
    kind = _RateOfTheFirstGroup


@broken("optimizer", "step", "there is one group, and its rate is read from the first one, although groups are divided")
class RateOfTheOnlyGroup(Momentum):
    kind = _RateOfTheFirstGroup

    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        return [{"params": [p.tensor for p in parameters]}]


class _StopsWithOne(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if all(group["lr"] for group in self.param_groups):
            super().step()


@broken("optimizer", "step", "nothing moves while any group has a rate of 0")
class StopsWithOneGroup(Momentum):
    kind = _StopsWithOne


class _DecayIntoTheGradient(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient.add_(p, alpha=0.1), group)


@broken("optimizer", "step", "weight decay is added to the gradient in place")
class DecayIntoTheGradient(Momentum):
    kind = _DecayIntoTheGradient


class _Nesterov(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        momentum = super().direction(p, gradient, group)
        return gradient.lerp_(momentum, group["momentum"])


@broken("optimizer", "step", "the mean of gradient and momentum is written into the gradient")
class NesterovInPlace(Momentum):
    kind = _Nesterov


class _FreesGradients(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().move(p, gradient, group)
        p.grad = None


@broken("optimizer", "step", "each gradient is removed after its use, to save memory")
class FreesGradients(Momentum):
    kind = _FreesGradients


class _GrowingShares(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state["sum"], state["step"] = torch.zeros_like(p), 0
        state["step"] += 1
        share = float(group["momentum"]) ** -state["step"]
        return state["sum"].add_(gradient, alpha=share) / share


@broken("optimizer", "finite", "the momentum is kept as a sum with shares that grow, until they overflow")
class GrowingShares(Momentum):
    kind = _GrowingShares
