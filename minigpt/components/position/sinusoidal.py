"""Fixed sinusoidal absolute positions."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import wide_dtype
from minigpt.registry import register


@register("position", "sinusoidal")
class SinusoidalPosition(Position):
    """Sines and cosines of many wavelengths, added to the embeddings (Vaswani et al. 2017, arXiv:1706.03762).

    PE[p, 2i] = scale * sin(p / base^(2i/D)),  PE[p, 2i+1] = scale * cos(p / base^(2i/D))

    Args:
        base: Wavelengths run from 2 pi to 2 pi base.
        scale: Amplitude. The paper multiplies embeddings of deviation 1/sqrt(D) by sqrt(D), so that they match sinusoids of
            amplitude 1. Here embeddings start at deviation 0.02, and the default amplitude matches them.
    """

    per_row = True

    def __init__(
        self,
        dims: Dims,
        *,
        base: Annotated[float, Field(gt=1)] = 10_000.0,
        scale: Annotated[float, Field(gt=0)] = 0.02,
    ):
        super().__init__()
        if dims.d_model % 2:
            raise ValueError(f"sines and cosines need pairs of coordinates: d_model {dims.d_model} must be even")
        self.base, self.scale = base, scale

    def embed(
        self, x: Float[Tensor, "batch time d_model"], positions: Int[Tensor, "*batch time"]
    ) -> Float[Tensor, "batch time d_model"]:
        dtype = wide_dtype(x.dtype)
        exponents = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=dtype) / x.shape[-1]
        angles = positions[..., None].to(dtype) * self.base**-exponents
        table = torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)
        return x + (self.scale * table).to(x.dtype)
