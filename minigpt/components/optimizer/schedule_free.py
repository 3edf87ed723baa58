"""Schedule-free AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from minigpt.components.optimizer.groups import Momentum, decay_groups
from minigpt.contracts import Amount, AveragingOptimizer, NamedParameter, Optimizer
from minigpt.registry import register


@register("optimizer", "schedule_free")
class ScheduleFree(Optimizer):
    """AdamW that averages its weights instead of lowering the learning rate (Defazio et al. 2024, arXiv:2405.15682).

    z <- z - lr (g / (sqrt(v) + eps) + decay y),  x <- x + c (z - x),  y <- b1 x + (1 - b1) z,  v <- b2 v + (1 - b2) g^2

    with lr including sqrt(1 - b2^t), and c = lr^2 / sum of all lr^2 so far. It trains at y and evaluates at x. Use it with
    schedule `constant`, because it needs the warm-up and any decay would come on top of the averaging.

    Args:
        learning_rate: Peak learning rate; larger than with a schedule.
        betas: b1, how far it trains from z (0) towards x (1); b2, decay of the running square.
        eps: Added to the root of the running square.
        weight_decay: On matrices, embeddings and head.
    """

    adaptive = True
    averages = True

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 2.5e-3,
        betas: tuple[Momentum, Momentum] = (0.9, 0.999),
        eps: Annotated[float, Field(gt=0)] = 1e-8,
        weight_decay: Amount = 0.01,
    ):
        self.weight_decay = weight_decay
        self.settings = {"lr": learning_rate, "betas": betas, "eps": eps, "step": 0, "sum": 0.0}

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return _ScheduleFree(decay_groups(parameters, self.weight_decay), self.settings)


class _ScheduleFree(AveragingOptimizer):
    """In training a parameter holds y. Both x and z are stored, so that y can be computed from them again bit for bit."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if not self.state[p]:
                    self.state[p].update(x=p.clone(), z=p.clone(), square=torch.zeros_like(p))
            x, z, squares = ([self.state[p][name] for p in parameters] for name in ("x", "z", "square"))
            rate, share = _rate_and_share(group)
            torch._foreach_mul_(squares, group["betas"][1])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["betas"][1])
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_addcdiv_(z, gradients, roots, -rate)
            torch._foreach_add_(z, parameters, alpha=-rate * group["weight_decay"])
            torch._foreach_lerp_(x, z, share)
        self.train()

    @torch.no_grad()
    def eval(self) -> None:
        for group in self.param_groups:
            for p in filter(self.state.get, group["params"]):
                p.copy_(self.state[p]["x"])

    @torch.no_grad()
    def train(self) -> None:
        for group in self.param_groups:
            for p in filter(self.state.get, group["params"]):
                p.copy_(torch.lerp(self.state[p]["z"], self.state[p]["x"], group["betas"][0]))


def _rate_and_share(group: dict[str, Any]) -> tuple[float, float]:
    """Count one more update; return its learning rate with bias correction, and its share c of the average."""
    group["step"] += 1
    rate = group["lr"] * math.sqrt(1 - group["betas"][1] ** group["step"])
    group["sum"] += rate**2
    return rate, rate**2 / group["sum"] if group["sum"] else 0.0
