"""Rotary positions with exponential decay."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import rotate_pairs, wide_dtype
from minigpt.registry import register


@register("position", "xpos")
class XPos(Position):
    """Rotation, and a decay with distance that is slower at lower frequencies (Sun et al. 2022, arXiv:2212.10554).

    q_m is multiplied by z^(m/scale_base) and k_n by z^(-n/scale_base), with z_i = (2i/K + gamma) / (1 + gamma).

    Args:
        base: As for rope.
        gamma: Lower end of z before normalisation: even the fastest frequency keeps part of its score.
        scale_base: Distance over which z applies once.
    """

    relative = True

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
            raise ValueError(f"rotation needs pairs of coordinates: head_dim {dims.head_dim} must be even")
        self.base, self.gamma, self.scale_base = base, gamma, scale_base
        # Keys grow by 1/z with every token, so positions end far below the largest number of fp32 (e^88).
        self.max_positions = int(80 * scale_base / math.log((1 + gamma) / gamma))
        if self.max_positions < dims.block_size:
            raise ValueError(
                f"scale_base {scale_base:g} makes keys larger than fp32 allows after {self.max_positions} positions, "
                f"and block_size is {dims.block_size}; choose a larger one"
            )

    def rotate(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads time head_dim"],
        positions: Int[Tensor, " time"],
    ) -> tuple[Float[Tensor, "batch heads time head_dim"], Float[Tensor, "batch kv_heads time head_dim"]]:
        width = q.shape[-1]
        dtype = wide_dtype(q.dtype)
        shares = torch.arange(0, width, 2, device=q.device, dtype=dtype) / width
        places = positions[:, None].to(dtype)
        angles = places * self.base**-shares
        scale = ((shares + self.gamma) / (1 + self.gamma)) ** (places / self.scale_base)
        cos, sin = angles.cos(), angles.sin()
        return rotate_pairs(q, cos * scale, sin * scale), rotate_pairs(k, cos / scale, sin / scale)
