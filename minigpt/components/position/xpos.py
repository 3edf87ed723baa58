"""Rotary positions with exponential decay."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from minigpt.components.position.rope import turn
from minigpt.contracts import Dims, Position
from minigpt.registry import register


@register("position", "xpos")
class XPos(Position):
    """Rotation, and a decay with distance that is slower for slower frequencies (Sun et al. 2022, arXiv:2212.10554).

    q_m is multiplied by z^(m/scale_base) and k_n by z^(-n/scale_base), with z_i = (2i/K + gamma) / (1 + gamma).

    Args:
        base: As for rope.
        gamma: How much even the fastest frequency keeps.
        scale_base: Distance over which z applies once.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        base: Annotated[float, Field(gt=1)] = 10_000.0,
        gamma: Annotated[float, Field(gt=0)] = 0.4,
        scale_base: Annotated[float, Field(gt=0)] = 512.0,
    ):
        super().__init__()
        if dims.head_dim % 2:
            raise ValueError(f"rotation takes coordinates in pairs: head_dim {dims.head_dim} must be even")
        self.base, self.gamma, self.scale_base = base, gamma, scale_base

    def rotate(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads time head_dim"],
        positions: Int[Tensor, " time"],
    ) -> tuple[Float[Tensor, "batch heads time head_dim"], Float[Tensor, "batch kv_heads time head_dim"]]:
        width = q.shape[-1]
        shares = torch.arange(0, width, 2, device=q.device, dtype=torch.float32) / width
        places = positions[:, None].float()
        angles = places * self.base**-shares
        scale = ((shares + self.gamma) / (1 + self.gamma)) ** (places / self.scale_base)
        cos, sin = angles.cos(), angles.sin()
        return turn(q, cos * scale, sin * scale), turn(k, cos / scale, sin / scale)
