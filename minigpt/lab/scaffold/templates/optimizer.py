"""my_part: an update rule.

`build` receives every trainable tensor of the model once, each with its name and role
("matrix", "embedding", "head", "vector"), and returns a torch optimizer. The `lr` of
each of its groups is the peak: the trainer multiplies it by the schedule before each
step. Keyword-only arguments are its JSON parameters: annotate each one, give it bounds,
and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- every parameter is in exactly one group;
- steps stay finite, also for zero gradients, and weights change;
- its state_dict has its whole state, as tensors, numbers, text, lists and dicts: a new
  optimizer that loads it continues bit for bit;
- weights change only in `step`, do not change if lr is 0, and depend on nothing hidden:
  no random numbers, no clock;
- every keyword argument changes something.

Edit first: the loop in `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from minigpt.contracts import NamedParameter, Optimizer
from minigpt.registry import register


@register("optimizer", "my_part")
class MyPart(Optimizer):
    """Momentum with steps of equal size in every tensor: their root mean square is 1.

    m <- b m + (1 - b) g,  p <- p - lr (m / rms(m) + decay p)

    Args:
        learning_rate: Peak learning rate.
        momentum: b, the share of the running mean of gradients that is kept.
        weight_decay: On matrices, embeddings and head; never on biases and gains.
    """

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 3e-4,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        weight_decay: Annotated[float, Field(ge=0)] = 0.1,
    ):
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight_decay = weight_decay

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        groups = []
        for is_vector, decay in ((False, self.weight_decay), (True, 0.0)):
            chosen = [p for p in parameters if (p.role == "vector") == is_vector]
            if chosen:
                tensors = [p.tensor for p in chosen]
                groups.append({"params": tensors, "weight_decay": decay})
        return _EvenMomentum(groups, lr=self.learning_rate, momentum=self.momentum)


class _EvenMomentum(torch.optim.Optimizer):
    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float):
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, keep, decay = group["lr"], group["momentum"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                mean = state["mean"].lerp_(p.grad, 1 - keep)
                size = torch.linalg.vector_norm(mean) / p.numel() ** 0.5
                p.mul_(1 - lr * decay)
                p.sub_(lr * mean / (size + 1e-12))  # avoids 0 / 0
