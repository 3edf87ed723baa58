"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from minigpt.kernels.fused import rms_norm
from minigpt.registry import register


@register("norm", "rmsnorm")
class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps), then a gain; no centring, no bias (Zhang & Sennrich 2019, arXiv:1910.07467).

    Args:
        eps: Added to the mean square.
        gain: Whether there is a trained gain.
    """

    scaling = "invariant"

    def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-6, gain: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if gain else None

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        normed = rms_norm(x, self.eps)
        return normed if self.weight is None else normed * self.weight.to(x.dtype)
