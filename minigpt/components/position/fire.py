"""Functional interpolation of relative positions."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import wide_dtype
from minigpt.registry import register


@register("position", "fire")
class FIRE(Position):
    """A learned function of the distance relative to the query's position (Li et al. 2023, arXiv:2310.04418).

    bias = f(psi(q - k) / psi(max(q, L))), psi(x) = log(1 + c x), f a perceptron with one hidden layer; c and L are learned.

    Args:
        hidden: Hidden width of f.
        c: Initial c.
        threshold: Initial L; null for block_size.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        hidden: Annotated[int, Field(gt=0)] = 32,
        c: Annotated[float, Field(gt=0)] = 0.1,
        threshold: Annotated[float, Field(gt=0)] | None = None,
    ):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))
        self.threshold_scale = nn.Parameter(torch.tensor(1.0))
        self.threshold = float(threshold or dims.block_size)
        self.into = nn.Linear(1, hidden)
        self.out = nn.Linear(hidden, dims.n_heads)

    def init_weights(self) -> None:
        """Use torch's defaults in the perceptron: with the model-wide deviation its output would be almost constant."""
        for layer in (self.into, self.out):
            layer.reset_parameters()

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"]:
        dtype = wide_dtype(self.c.dtype)
        distance = (q_positions[:, None] - k_positions[None, :]).clamp(min=0).to(dtype)
        reach = torch.maximum(q_positions[:, None].to(dtype), (self.threshold * self.threshold_scale).abs())
        ratio = torch.log1p((self.c * distance).abs()) / (torch.log1p((self.c * reach).abs()) + 1e-6)
        return self.out(self.into(ratio[..., None]).relu()).permute(2, 0, 1)
