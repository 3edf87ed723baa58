"""Scaled L2 normalisation."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("norm", "scalenorm")
class ScaleNorm(Norm):
    """g x / |x|, with one trained g, initially the root of the width (Nguyen & Salazar 2019, arXiv:1910.05895).

    Args:
        eps: Added to the squared length.
    """

    scaling = "invariant"

    def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.tensor(math.sqrt(width)))

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        squared = upcast(x).square().sum(dim=-1, keepdim=True)
        return (self.weight * x * (squared + self.eps).rsqrt()).to(x.dtype)
