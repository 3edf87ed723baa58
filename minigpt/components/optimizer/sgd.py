"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from minigpt.components.optimizer.groups import decay_groups
from minigpt.contracts import Amount, NamedParameter, Optimizer
from minigpt.registry import register


@register("optimizer", "sgd")
class SGD(Optimizer):
    """Gradient descent with momentum (Polyak 1964; Nesterov's: Sutskever et al. 2013).

    Args:
        learning_rate: Peak learning rate.
        momentum: Share of the last step that is kept.
        nesterov: Look ahead by the momentum before taking the gradient (Nesterov momentum).
        weight_decay: On matrices, embeddings and head, added to the gradient.
    """

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9,
        nesterov: bool = True,
        weight_decay: Amount = 0.0,
    ):
        self.learning_rate, self.momentum, self.nesterov, self.weight_decay = learning_rate, momentum, nesterov, weight_decay

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        groups = decay_groups(parameters, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.nesterov)
