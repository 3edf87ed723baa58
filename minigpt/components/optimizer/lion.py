"""Lion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from minigpt.components.optimizer.groups import Momentum, decay_groups
from minigpt.contracts import Amount, NamedParameter, Optimizer
from minigpt.registry import register


@register("optimizer", "lion")
class Lion(Optimizer):
    """The sign of an interpolated momentum; every weight changes by the same amount (Chen et al. 2023, arXiv:2302.06675).

    p <- p - lr (sign(b1 m + (1 - b1) g) + decay p),  m <- b2 m + (1 - b2) g

    Args:
        learning_rate: Peak learning rate; a third to a tenth of AdamW's.
        betas: b1 for the step, b2 for the stored momentum.
        weight_decay: On matrices, embeddings and head; three to ten times AdamW's.
    """

    adaptive = True

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 1e-4,
        betas: tuple[Momentum, Momentum] = (0.9, 0.99),
        weight_decay: Amount = 0.3,
    ):
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return _Lion(decay_groups(parameters, self.weight_decay), lr=self.learning_rate, betas=self.betas)


class _Lion(torch.optim.Optimizer):
    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]):
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in parameters]
            beta1, beta2 = group["betas"]
            directions = torch._foreach_lerp(gradients, momenta, beta1)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
