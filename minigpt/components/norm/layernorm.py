"""Layer normalisation."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from minigpt.registry import register


@register("norm", "layernorm")
class LayerNorm(Norm):
    """Mean 0 and variance 1 over the width, then gain and bias (Ba et al. 2016, arXiv:1607.06450).

    Args:
        eps: Added to the variance.
        bias: Whether there is a bias in addition to the gain.
    """

    scaling = "invariant"

    def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-5, bias: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
