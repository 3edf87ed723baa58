"""Bucketed relative biases."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import wide_dtype
from minigpt.registry import register


@register("position", "t5")
class T5Bias(Position):
    """A learned bias for each head and bucket of distances (Raffel et al. 2019, arXiv:1910.10683).

    Distances below buckets / 2 have a bucket each. The other buckets are spaced logarithmically up to max_distance, and all
    larger distances share the last one.

    Args:
        buckets: Number of buckets; must be even.
        max_distance: Start of the last bucket.
    """

    relative = True

    def __init__(
        self,
        dims: Dims,
        *,
        buckets: Annotated[int, Field(ge=2, multiple_of=2)] = 32,
        max_distance: Annotated[int, Field(gt=1)] = 128,
    ):
        super().__init__()
        if max_distance <= buckets // 2:
            raise ValueError(f"max_distance {max_distance} must be more than half of buckets {buckets}")
        self.buckets, self.max_distance = buckets, max_distance
        self.table = nn.Embedding(buckets, dims.n_heads)

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"]:
        distance = (q_positions[:, None] - k_positions[None, :]).clamp(min=0)
        exact = self.buckets // 2
        dtype = wide_dtype(self.table.weight.dtype)
        growth = (distance.clamp(min=1).to(dtype) / exact).log() / math.log(self.max_distance / exact)
        distant = (exact + (growth * (self.buckets - exact)).long()).clamp(max=self.buckets - 1)
        return self.table(torch.where(distance < exact, distance, distant)).permute(2, 0, 1)
