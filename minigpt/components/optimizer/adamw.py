"""AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from minigpt.components.optimizer.groups import Momentum, decay_groups
from minigpt.contracts import Amount, NamedParameter, Optimizer
from minigpt.registry import register


@register("optimizer", "adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay, on matrices only (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Args:
        learning_rate: Peak learning rate.
        betas: Decay of the running mean and of the running square.
        eps: Added to the root of the running square.
        weight_decay: On matrices, embeddings and head; never on biases and gains.
    """

    adaptive = True

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 3e-4,
        betas: tuple[Momentum, Momentum] = (0.9, 0.99),
        eps: Annotated[float, Field(gt=0)] = 1e-8,
        weight_decay: Amount = 0.1,
    ):
        self.learning_rate, self.betas, self.eps, self.weight_decay = learning_rate, betas, eps, weight_decay

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            decay_groups(parameters, self.weight_decay),
            lr=self.learning_rate,
            betas=self.betas,
            eps=self.eps,
            fused=all(p.tensor.is_floating_point() for p in parameters),  # the fused step has no complex numbers
        )
