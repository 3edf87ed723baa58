"""ADOPT: an example plugin, an optimizer with a state that is saved and resumed bit for bit.

Use it by naming this file in an experiment's "plugins" (see experiments/adopt.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/adopt.py --set training.optimizer=adopt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from minigpt.components.optimizer.groups import Momentum, decay_groups
from minigpt.contracts import NamedParameter, Optimizer
from minigpt.registry import register


@register("optimizer", "adopt")
class ADOPT(Optimizer):
    """Adam that divides a gradient by the running square of earlier ones (Taniguchi et al. 2024, arXiv:2411.02853).

    m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), t^clip_power),  p <- p - lr (m + decay p),  v <- b2 v + (1 - b2) g^2

    So the divisor does not depend on the gradient that it divides, and any b2 converges. The first gradient only sets
    v = g^2.

    Args:
        learning_rate: Peak learning rate.
        betas: b1 for the running mean, b2 for the running square.
        eps: Smallest divisor.
        weight_decay: On matrices, embeddings and head; never on biases and gains.
        clip_power: Divided gradients are clipped to +-t^clip_power at a parameter's update t; null for no clipping.
    """

    adaptive = True

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
        betas: tuple[Momentum, Momentum] = (0.9, 0.9999),
        eps: Annotated[float, Field(gt=0)] = 1e-6,
        weight_decay: Annotated[float, Field(ge=0)] = 0.1,
        clip_power: Annotated[float, Field(ge=0)] | None = 0.25,
    ):
        self.weight_decay = weight_decay
        self.settings = {"lr": learning_rate, "betas": betas, "eps": eps, "clip_power": clip_power}

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return _ADOPT(decay_groups(parameters, self.weight_decay), self.settings)


class _ADOPT(torch.optim.Optimizer):
    """Its whole state is in `state` and `param_groups`, as tensors and numbers, so a saved state is complete."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    _step(p, p.grad, self.state[p], group)


def _step(p: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Algorithm 2 of the paper, with decoupled weight decay."""
    if not state:
        state.update(step=0, mean=torch.zeros_like(p), square=gradient.square())
        return
    state["step"] += 1
    beta1, beta2 = group["betas"]
    direction = gradient / state["square"].sqrt().clamp_(min=group["eps"])
    if group["clip_power"] is not None:
        bound = state["step"] ** group["clip_power"]
        direction.clamp_(-bound, bound)
    state["mean"].lerp_(direction, 1 - beta1)
    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(state["mean"], alpha=group["lr"])
    state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
