"""Rotary positions."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Position
from minigpt.registry import register


@register("position", "rope")
class RotaryPosition(Position):
    """Queries and keys are turned by an angle that grows with position (RoFormer: Su et al. 2021, arXiv:2104.09864).

    The score of a query at m and a key at n then depends on m - n only. Coordinate i is paired with i + K/2 (the layout
    of GPT-NeoX and Llama) and turned by the angle p * base^(-2i/K).

    Args:
        base: Wavelengths run from 2 pi to 2 pi base.
    """

    def __init__(self, dims: Dims, *, base: Annotated[float, Field(gt=1)] = 10_000.0):
        super().__init__()
        if dims.head_dim % 2:
            raise ValueError(f"rotation takes coordinates in pairs: head_dim {dims.head_dim} must be even")
        self.base = base

    def rotate(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads time head_dim"],
        positions: Int[Tensor, " time"],
    ) -> tuple[Float[Tensor, "batch heads time head_dim"], Float[Tensor, "batch kv_heads time head_dim"]]:
        width = q.shape[-1]
        exponents = torch.arange(0, width, 2, device=q.device, dtype=torch.float32) / width
        angles = positions[:, None].float() * self.base**-exponents  # [T, K/2], fp32 whatever the model's precision
        cos, sin = angles.cos(), angles.sin()
        return _turn(q, cos, sin), _turn(k, cos, sin)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
