"""Optimizers that are right: slow weights, private generators, rules by name, refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from minigpt.contracts import NamedParameter, Optimizer
from tests.unusual import unusual


class Descent(torch.optim.Optimizer):
    """m <- 0.9 m + g, p <- p - lr m; `finish` follows each step."""

    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups, {"lr": 0.01, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, p.grad, group)
            self.finish(group)

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter."""
        momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
        p.sub_(momentum.mul_(0.9).add_(gradient), alpha=group["lr"])

    def finish(self, group: dict[str, Any]) -> None:
        """Do what follows a step of a group."""


class Plain(Optimizer):
    """One rule for everything that is no vector, and one group of vectors."""

    kind: ClassVar[type[Descent]] = Descent

    def __init__(self) -> None:
        pass

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        vectors = [p.tensor for p in parameters if p.role == "vector"]
        rest = [p.tensor for p in parameters if p.role != "vector"]
        return self.kind([{"params": tensors} for tensors in (rest, vectors) if tensors])


class _Lookahead(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        self.state[p].setdefault("slow", p.clone())
        super().move(p, gradient, group)

    def finish(self, group: dict[str, Any]) -> None:
        if group["step"] % 6 == 0:
            for p in filter(self.state.get, group["params"]):
                slow = self.state[p]["slow"]
                slow.copy_(0.2 * slow + 0.8 * p)
                p.copy_(slow)


@unusual("optimizer", "step", "every sixth step moves the weights towards slow ones, with any learning rate")
class Lookahead(Plain):
    kind = _Lookahead


class _Pulled(_Lookahead):
    def finish(self, group: dict[str, Any]) -> None:
        for p in filter(self.state.get, group["params"]):
            slow = self.state[p]["slow"]
            slow.lerp_(p, 0.05)
            p.lerp_(slow, 0.1)


@unusual("optimizer", "step", "every step pulls the weights a little towards their running mean, with any learning rate")
class Pulled(Plain):
    kind = _Pulled


class _Inertia(Descent):
    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
        p.add_(velocity.mul_(0.95).sub_(gradient, alpha=group["lr"]))


@unusual("optimizer", "step", "the rate is inside the velocity (Sutskever et al. 2013), which carries the weights further")
class Inertia(Plain):
    kind = _Inertia


class _Noisy(Descent):
    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__([{**group, "generator": None, "seed": number} for number, group in enumerate(groups)])

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        generator = torch.Generator()
        if group["generator"] is None:
            generator.manual_seed(group["seed"])
        else:
            generator.set_state(group["generator"])
        noise = torch.randn(p.shape, generator=generator).to(p)
        group["generator"] = generator.get_state()
        super().move(p, gradient + 0.01 * noise, group)


@unusual(
    "optimizer",
    "resumable",
    "noise comes from a private generator, whose state is a value of the group from the first step on",
)
class GeneratorInTheGroup(Plain):
    kind = _Noisy


class _NoisySeed(Descent):
    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__([{**group, "generator": number} for number, group in enumerate(groups)])

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        generator = torch.Generator()
        if isinstance(group["generator"], int):
            generator.manual_seed(group["generator"])
        else:
            generator.set_state(group["generator"])
        noise = torch.randn(p.shape, generator=generator).to(p)
        group["generator"] = generator.get_state()
        super().move(p, gradient + 0.01 * noise, group)


@unusual("optimizer", "resumable", "a value of the group is a seed at first, and then the state of the generator")
class SeedThenGenerator(Plain):
    kind = _NoisySeed


class _GeneratorOnSelf(Descent):
    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups)
        self.generator = torch.Generator().manual_seed(5)

    def move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().move(p, gradient + 0.01 * torch.randn(p.shape, generator=self.generator).to(p), group)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.generator.set_state(state_dict["generator"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "generator"})


@unusual("optimizer", "resumable", "a generator is kept on self, and its state is part of the state_dict")
class GeneratorInTheStateDict(Plain):
    kind = _GeneratorOnSelf


@unusual("optimizer", "knobs", "parameters whose dotted name matches a pattern get a quarter of the rate")
class RateByName(Plain):
    """Gradient descent.

    Args:
        slower: A regular expression.
    """

    def __init__(self, *, slower: Annotated[str, Field(examples=[r"^blocks\.\d+\.attention\.qkv", r"^head\."])] = r"norm"):
        self.slower = slower

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        slow = [p.tensor for p in parameters if re.search(self.slower, p.name)]
        rest = [p.tensor for p in parameters if not re.search(self.slower, p.name)]
        groups = [{"params": slow, "lr": 0.0025}, {"params": rest, "lr": 0.01}]
        return Descent([group for group in groups if group["params"]])


@unusual("optimizer", "groups", "it refuses parameters without a head or without vectors")
class NeedsAHead(Plain):
    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        if {p.role for p in parameters} != {"matrix", "embedding", "head", "vector"}:
            raise ValueError("it trains models with matrices, an embedding, a separate head and vectors")
        return super().build(parameters)
