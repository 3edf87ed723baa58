"""Attention with linear biases."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("position", "alibi")
class ALiBi(Position):
    """Scores fall linearly with distance, each head at its own slope (Press et al. 2021, arXiv:2108.12409).

    bias = -m_h (q - k), the slopes m_h a geometric sequence from 2^(-8/H) to 2^-8.
    """

    relative = True

    exponents: Tensor

    def __init__(self, dims: Dims):
        super().__init__()
        # Exponents of 2 instead of the slopes: they are exact in fp32, also when the model is converted to float64.
        self.register_buffer("exponents", torch.tensor(_exponents(dims.n_heads)), persistent=False)

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"]:
        slopes = upcast(self.exponents).exp2()
        distance = (q_positions[:, None] - k_positions[None, :]).to(slopes.dtype)
        return -slopes[:, None, None] * distance


def _exponents(heads: int) -> list[float]:
    """Exponents for any number of heads: all of the next lower power of two, then every other one of the next higher."""
    power = 2 ** math.floor(math.log2(heads))
    exponents = [-8 * (head + 1) / power for head in range(power)]
    return exponents + [-4 * (2 * extra + 1) / power for extra in range(heads - power)]
