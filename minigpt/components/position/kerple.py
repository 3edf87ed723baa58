"""Kernelised relative biases."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import wide_dtype
from minigpt.registry import register


@register("position", "kerple")
class Kerple(Position):
    """Scores fall with distance by a learned kernel, two positive numbers per head (Chi et al. 2022, arXiv:2205.09921).

    log: -a log(1 + b d);  power: -a d^b with b below 2.

    Args:
        kernel: log or power.
    """

    elementwise = frozenset({"raw"})

    relative = True

    def __init__(self, dims: Dims, *, kernel: Literal["log", "power"] = "log"):
        super().__init__()
        self.kernel = kernel
        # a = exp(first) and b = exp(second), or 2 sigmoid(second): positive for any values of the parameters
        self.raw = nn.Parameter(torch.empty(2, dims.n_heads))
        nn.init.uniform_(self.raw, -1, 1)

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"]:
        distance = (q_positions[:, None] - k_positions[None, :]).clamp(min=0).to(wide_dtype(self.raw.dtype))
        a = self.raw[0].exp()[:, None, None]
        if self.kernel == "log":
            return -a * torch.log1p(self.raw[1].exp()[:, None, None] * distance)
        # d^b has no gradient in b at 0: distances start at 0.001 there.
        return -a * distance.clamp(min=1e-3) ** (2 * self.raw[1].sigmoid()[:, None, None])
