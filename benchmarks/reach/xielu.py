"""xIELU, as a plugin: an activation with two trained numbers, the integral of an expanded ELU."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from minigpt.registry import register


@register("ffn", "xielu")
class XIELU(FeedForward):
    """W_out f(W_in x), f with trained a and c for the two sides of zero (Huang & Schlag 2024, arXiv:2411.13010).

    f(x) = a x^2 + x / 2 for x > 0;  c (e^x - 1 - x) + x / 2 otherwise;  a = softplus(a'), c = 1/2 + softplus(c')

    Args:
        expansion: Hidden width as a multiple of d_model.
        start: Initial a and c.
        bias: Biases in both layers.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expansion: Annotated[float, Field(gt=0, le=64)] = 4.0,
        start: Annotated[float, Field(gt=0.5, le=16)] = 0.8,
        bias: bool = False,
    ):
        super().__init__()
        hidden = max(1, round(expansion * dims.d_model))
        self.into = nn.Linear(dims.d_model, hidden, bias=bias)
        self.positive = nn.Parameter(torch.full((), math.log(math.expm1(start))))
        self.negative = nn.Parameter(torch.full((), math.log(math.expm1(start - 0.5))))
        self.out = ResidualLinear(hidden, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        z = self.into(x)
        a, c = F.softplus(self.positive).to(z.dtype), 0.5 + F.softplus(self.negative).to(z.dtype)
        below = z.clamp(max=0)  # exp of a large z would overflow, and its gradient would be 0 times infinity
        return self.out(a * z.clamp(min=0).square() + c * (torch.expm1(below) - below) + z / 2)
