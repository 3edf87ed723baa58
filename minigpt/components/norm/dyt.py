"""Dynamic tanh."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from minigpt.registry import register


@register("norm", "dyt")
class DynamicTanh(Norm):
    """gain * tanh(alpha x) + bias instead of normalisation (Zhu et al. 2025, arXiv:2503.10622).

    Args:
        alpha: Initial slope, one number for the whole width.
    """

    def __init__(self, width: int, *, alpha: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        return (torch.tanh(self.alpha * x) * self.weight + self.bias).to(x.dtype)
