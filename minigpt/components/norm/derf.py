"""Dynamic erf."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from minigpt.registry import register


@register("norm", "derf")
class DynamicErf(Norm):
    """gain * erf(alpha x + shift) + bias instead of normalisation (Chen et al. 2025, arXiv:2512.10938).

    Args:
        alpha: Initial slope, one number for the whole width.
    """

    def __init__(self, width: int, *, alpha: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        return (torch.erf(self.alpha * x + self.shift) * self.weight + self.bias).to(x.dtype)
