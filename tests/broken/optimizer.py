"""Optimizers."""

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

from minigpt.contracts import NamedParameter, Optimizer
from tests.broken import broken, correct


class Descent(torch.optim.Optimizer):
    """m <- b m + g, p <- p - lr m, and weights shrink by lr decay; each step is a method."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, decay: float):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, p.grad, group)

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One parameter's step."""
        p.mul_(1 - group["lr"] * group["decay"])
        p.sub_(group["lr"] * self.direction(p, gradient, group))

    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Where to, before the learning rate."""
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"].mul_(group["momentum"]).add_(gradient)


@correct("optimizer")
class Momentum(Optimizer):
    """Gradient descent with momentum.

    Args:
        learning_rate: Peak learning rate.
        momentum: Share of the last step that is kept.
        weight_decay: On all but vectors.
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
        """With weight decay, and without."""
        kinds = ([p for p in parameters if p.role != "vector"], [p for p in parameters if p.role == "vector"])
        decays = (self.weight_decay, 0.0)
        groups = [{"params": [p.tensor for p in some], "decay": decay} for some, decay in zip(kinds, decays, strict=True)]
        return [group for group in groups if group["params"]]


@broken("optimizer", "groups", "the last parameter is left out by a slice that ends too early")
class LastLeftOut(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        return super().groups(parameters[:-1])


@broken("optimizer", "groups", "matrices and vectors have their groups, and embeddings and head are forgotten")
class EmbeddingsForgotten(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        return super().groups([p for p in parameters if p.role in ("matrix", "vector")])


@broken("optimizer", "groups", "parameters are told apart by their shapes: of two alike only one is kept")
class OneOfEachShape(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        return super().groups(list({p.tensor.shape: p for p in parameters}.values()))


@broken("optimizer", "groups", "embeddings are matrices too, and so are in two groups")
class EmbeddingsTwice(Momentum):
    def groups(self, parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
        embeddings = [p.tensor for p in parameters if p.role == "embedding"]
        return [*super().groups(parameters), {"params": embeddings, "decay": 0.0}]


class _NormedGradient(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(p, gradient / gradient.norm(), group)


@broken("optimizer", "finite", "a gradient of zero is divided by its norm")
class DividesByZeroNorm(Momentum):
    kind = _NormedGradient


class _NeverMoves(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        p = p - group["lr"] * self.direction(p, gradient, group)


@broken("optimizer", "finite", "the new weights get a name of their own, and the parameters stay as they are")
class WeightsStandStill(Momentum):
    kind = _NeverMoves


class _WantsEveryGradient(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, p.grad.clone(), group)


@broken("optimizer", "finite", "a parameter that took no part, such as an expert that was not chosen, has no gradient")
class WantsEveryGradient(Momentum):
    kind = _WantsEveryGradient


class _DecaysWithoutGradient(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, torch.zeros_like(p) if p.grad is None else p.grad, group)


@broken("optimizer", "finite", "no gradient is taken for one of zero: momentum and decay move what took no part")
class DecaysWithoutGradient(Momentum):
    kind = _DecaysWithoutGradient


class _MomentumOnSelf(Descent):
    def __init__(self, *args: Any):
        super().__init__(*args)
        self.momenta: dict[Tensor, Tensor] = {}

    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        return self.momenta.setdefault(p, torch.zeros_like(p)).mul_(group["momentum"]).add_(gradient)


@broken("optimizer", "resumable", "the momentum is kept beside the state_dict, and begins anew when training is resumed")
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


@broken("optimizer", "resumable", "momenta stand in a dict of the class, which all optimizers share")
class SharedMomenta(Momentum):
    kind = _SharedMomenta


class _KeepsADeque(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        recent = self.state[p].setdefault("recent", deque(maxlen=3))
        recent.append(gradient.clone())
        return torch.stack(tuple(recent)).mean(0) * group["momentum"]


@broken("optimizer", "resumable", "the last gradients are kept in a deque, which is none of what can be saved")
class KeepsADeque(Momentum):
    kind = _KeepsADeque


class _Average:
    def __init__(self, like: Tensor):
        self.tensor = torch.zeros_like(like)


class _KeepsAnObject(Descent):
    def direction(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        average = self.state[p].setdefault("average", _Average(p))
        return average.tensor.mul_(group["momentum"]).add_(gradient)


@broken("optimizer", "resumable", "the momentum is inside an object of a class of its own, which cannot be saved")
class KeepsAnObject(Momentum):
    kind = _KeepsAnObject


class _LowPrecisionMomentum(Descent):
    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        for state in saved["state"].values():
            state["momentum"] = state["momentum"].bfloat16().float()
        return saved


@broken("optimizer", "resumable", "the momentum is rounded when it is saved, to halve the checkpoint")
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


@broken("optimizer", "step", "build rescales the weights that it is given")
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


@broken(
    "optimizer", "step", "the learning rate of the constructor is used, and the group's, which the schedule sets, is not"
)
class IgnoresTheSchedule(Momentum):
    kind = _FixedRate


class _DecayWithoutRate(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        p.mul_(1 - 0.01 * group["decay"])
        p.sub_(group["lr"] * self.direction(p, gradient, group))


@broken("optimizer", "step", "weight decay is not multiplied by the learning rate: at 0 weights still shrink")
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


@broken("optimizer", "step", "noise from torch's global generator is added, and shifts the numbers of all that follow")
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


@broken("optimizer", "knobs", "a momentum is accepted, and 0.9 is used")
class MomentumNotUsed(Momentum):
    kind = _ChangesGradients
