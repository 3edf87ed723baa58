"""Sandwich biases: a worked plugin, a position that promises to be relative.

Use it by naming this file in an experiment's "plugins" (see experiments/sandwich.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/sandwich.py --set model.position=sandwich
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("position", "sandwich")
class Sandwich(Position):
    """Scores fall with distance as do the inner products of sinusoidal positions (Chi et al. 2022, arXiv:2212.10356).

    bias_h = (sum_i cos(d / base^(2i/width)) - width/2) H / (ratio h), over i = 1 ... width/2, in heads h = 1 ... H

    The fall is about logarithmic, and has no parameters to be trained; 0 is at distance d = 0.

    Args:
        width: Of the sinusoidal positions; an even number, not bound to d_model.
        base: Wavelengths run up to 2 pi base.
        ratio: By how much the last head's biases are divided; those of the others by shares of it.
    """

    relative = True

    heads: Tensor

    def __init__(
        self,
        dims: Dims,
        *,
        width: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 128,
        base: Annotated[float, Field(gt=1)] = 10_000.0,
        ratio: Annotated[float, Field(gt=0)] = 8.0,
    ):
        super().__init__()
        self.width, self.base, self.ratio = width, base, ratio
        # Whole numbers are exact in any precision; that of the model is read off this buffer.
        self.register_buffer("heads", torch.arange(1.0, dims.n_heads + 1), persistent=False)

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"]:
        heads = upcast(self.heads) * (self.ratio / len(self.heads))
        distance = (q_positions[:, None] - k_positions[None, :]).to(heads.dtype)
        index = torch.arange(2, self.width + 1, 2, device=distance.device, dtype=heads.dtype) / self.width
        cosines = torch.cos(distance[:, :, None] * self.base**-index)
        return (cosines - 1).sum(-1) / heads[:, None, None]
