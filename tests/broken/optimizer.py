"""Broken optimizers."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from minigpt.components.optimizer.schedule_free import ScheduleFree
from minigpt.contracts import NamedParameter, Optimizer
from tests.broken import broken, correct


class Descent(torch.optim.Optimizer):
    """m <- b m + g, p <- (1 - lr decay) p - lr m; each part of a step is a method."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, decay: float):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, p.grad, group)

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter."""
        p.mul_(1 - group["lr"] * group["decay"])
        p.sub_(group["lr"] * self.direction(p, gradient, group))

    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the direction, without the learning rate."""
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"].mul_(group["momentum"]).add_(gradient)


@correct("optimizer")
class Momentum(Optimizer):
    """Gradient descent with momentum.

    Args:
        learning_rate: Peak learning rate.
        momentum: Decay factor b of the momentum.
        weight_decay: Weight decay of all parameters except vectors.
    """

    kind: ClassVar[type[Descent]] = Descent

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 0.01,
        momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9,
        weight_decay: Annotated[float, Field(ge=0)] = 0.1,
    ):
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return self.kind(self.groups(parameters), self.learning_rate, self.momentum, self.weight_decay)

    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        """Return one group with weight decay and one without."""
        kinds = ([p for p in parameters if p.role != "vector"], [p for p in parameters if p.role == "vector"])
        decays = (self.weight_decay, 0.0)
        groups = [{"params": [p.tensor for p in kind], "decay": decay} for kind, decay in zip(kinds, decays, strict=True)]
        return [group for group in groups if group["params"]]


@broken("optimizer", "groups", "a slice ends too early and omits the last parameter")
class LastLeftOut(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        return super().groups(parameters[:-1])


@broken("optimizer", "groups", "matrices and vectors are in groups, but embeddings and head are not")
class EmbeddingsForgotten(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        return super().groups([p for p in parameters if p.role in ("matrix", "vector")])


@broken("optimizer", "groups", "parameters are identified by their shapes, so only one of each shape is kept")
class OneOfEachShape(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        return super().groups(list({p.tensor.shape: p for p in parameters}.values()))


@broken("optimizer", "groups", "embeddings are also treated as matrices, so they are in two groups")
class EmbeddingsTwice(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        embeddings = [p.tensor for p in parameters if p.role == "embedding"]
        return [*super().groups(parameters), {"params": embeddings, "decay": 0.0}]


class _NormedGradient(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient / gradient.norm(), group)


@broken("optimizer", "groups", "it averages without saying so, so another optimizer that averages would wrap it")
class AveragesInSecret(Momentum):
    """An average of the weights."""

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return ScheduleFree().build(parameters)


@broken("optimizer", "adaptive", "it promises steps of one size, but they grow with the gradient")
class StepsGrowWithTheGradient(Momentum):
    adaptive = True


class _OneNorm(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient / (gradient.norm() + 1e-12), group)


@broken("optimizer", "adaptive", "a step has the length lr as a whole, so entries of large matrices hardly move")
class StepsOfOneLength(Momentum):
    adaptive = True
    kind = _OneNorm


@broken("optimizer", "finite", "a gradient of zero is divided by its norm")
class DividesByZeroNorm(Momentum):
    kind = _NormedGradient


class _NeverMoves(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        p = p - group["lr"] * self.direction(p, gradient, group)


@broken("optimizer", "finite", "the new weights are a new tensor, so the parameters do not change")
class WeightsStandStill(Momentum):
    kind = _NeverMoves


class _WantsEveryGradient(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, p.grad.clone(), group)


@broken("optimizer", "finite", "it fails if a parameter has no gradient, such as those of an unused expert")
class WantsEveryGradient(Momentum):
    kind = _WantsEveryGradient


class _DecaysWithoutGradient(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, torch.zeros_like(p) if p.grad is None else p.grad, group)


@broken("optimizer", "finite", "a missing gradient is treated as zero, so momentum and decay change unused parameters")
class DecaysWithoutGradient(Momentum):
    kind = _DecaysWithoutGradient


class _MomentumOnSelf(Descent):
    def __init__(self, *args: Any):
        super().__init__(*args)
        self.momenta: dict[Tensor, Tensor] = {}

    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return self.momenta.setdefault(p, torch.zeros_like(p)).mul_(group["momentum"]).add_(gradient)


@broken("optimizer", "resumable", "the momentum is not in the state_dict, so it restarts at zero when training resumes")
class MomentumOnSelf(Momentum):
    kind = _MomentumOnSelf


class _StepOnSelf(Descent):
    steps = 0

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        self.steps += 1
        super().step(closure)

    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient, group) / (1 - group["momentum"] ** self.steps)


@broken("optimizer", "resumable", "the number of steps, which corrects the bias, is not in the state_dict")
class StepOnSelf(Momentum):
    kind = _StepOnSelf


class _SharedMomenta(Descent):
    momenta: ClassVar[dict[tuple[int, int], Tensor]] = {}

    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        key = (len(group["params"]), [q is p for q in group["params"]].index(True))
        return self.momenta.setdefault(key, torch.zeros_like(p)).mul_(group["momentum"]).add_(gradient)


@broken("optimizer", "resumable", "momenta are in a class attribute, which all optimizers share")
class SharedMomenta(Momentum):
    kind = _SharedMomenta


class _KeepsADeque(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        recent = self.state[p].setdefault("recent", deque(maxlen=3))
        recent.append(gradient.clone())
        return torch.stack(tuple(recent)).mean(0) * group["momentum"]


@broken("optimizer", "resumable", "the last gradients are in a deque, which cannot be saved")
class KeepsADeque(Momentum):
    kind = _KeepsADeque


class _Average:
    def __init__(self, like: Tensor):
        self.tensor = torch.zeros_like(like)


class _KeepsAnObject(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        average = self.state[p].setdefault("average", _Average(p))
        return average.tensor.mul_(group["momentum"]).add_(gradient)


@broken("optimizer", "resumable", "the momentum is inside a custom object, which cannot be saved")
class KeepsAnObject(Momentum):
    kind = _KeepsAnObject


class _LowPrecisionMomentum(Descent):
    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        for state in saved["state"].values():
            state["momentum"] = state["momentum"].bfloat16().float()
        return saved


@broken("optimizer", "resumable", "the momentum is rounded when saved, to halve the checkpoint")
class RoundsWhatItSaves(Momentum):
    kind = _LowPrecisionMomentum


class _MovesInZeroGrad(Descent):
    @torch.no_grad()
    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.clamp_(-0.5, 0.5)
        super().zero_grad(set_to_none)


@broken("optimizer", "step", "weights are clamped in zero_grad, because it is called at every step")
class MovesInZeroGrad(Momentum):
    kind = _MovesInZeroGrad


@broken("optimizer", "step", "build rescales the weights")
class MovesInBuild(Momentum):
    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        with torch.no_grad():
            for p in parameters:
                if p.role == "matrix":
                    p.tensor.div_(p.tensor.norm() + 1e-6)
        return super().build(parameters)


class _FixedRate(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().move(p, gradient, {**group, "lr": self.defaults["lr"]})


@broken("optimizer", "step", "the constructor's learning rate is used instead of the group's, which the schedule sets")
class IgnoresTheSchedule(Momentum):
    kind = _FixedRate


class _DecayWithoutRate(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        p.mul_(1 - 0.01 * group["decay"])
        p.sub_(group["lr"] * self.direction(p, gradient, group))


@broken("optimizer", "step", "weight decay is not multiplied by the learning rate, so at a rate of 0 weights shrink")
class DecayWithoutRate(Momentum):
    kind = _DecayWithoutRate


class _NumpyNoise(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        noise = torch.tensor(np.random.standard_normal(p.shape), dtype=p.dtype)
        return super().direction(p, gradient, group) + 0.01 * noise


@broken("optimizer", "step", "noise from numpy's global generator is added")
class NumpyNoise(Momentum):
    kind = _NumpyNoise


class _TorchNoise(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient, group) + 0.01 * torch.randn_like(p)


@broken("optimizer", "step", "noise from torch's global generator is added, which changes all later random numbers")
class TorchNoise(Momentum):
    kind = _TorchNoise


class _ReadsTheClock(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient, group) * (1 + 0.1 * math.sin(time.perf_counter() * 1e3))


@broken("optimizer", "step", "the step depends on the clock")
class ReadsTheClock(Momentum):
    kind = _ReadsTheClock


class _ChangesGradients(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient / (gradient.norm() + 1), {**group, "momentum": 0.9})


@broken("optimizer", "knobs", "a momentum is accepted, but 0.9 is used")
class MomentumNotUsed(Momentum):
    kind = _ChangesGradients


class _CountsOnSelf(Descent):
    steps = 0

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        super().step()
        self.steps += 1
        if self.steps % 50 == 0:
            for group in self.param_groups:
                for p in group["params"]:
                    p.detach().mul_(0.9)


@broken("optimizer", "resumable", "every fiftieth step shrinks the weights, and the count is not in the state")
class CountsOnSelf(Momentum):
    kind = _CountsOnSelf
