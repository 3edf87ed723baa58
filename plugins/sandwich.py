"""Sandwich biases: an example plugin, a position that promises to be relative.

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
    """Scores fall with distance like the inner products of sinusoidal positions (Chi et al. 2022, arXiv:2212.10356).

    bias_h = (sum_i cos(d / base^(2i/width)) - width/2) H / (ratio h), over i = 1 ... width/2, in heads h = 1 ... H

    The decrease is about logarithmic and has no trained parameters; the bias at distance d = 0 is 0.

    Args:
        width: Width of the sinusoidal positions; an even number, independent of d_model.
        base: Wavelengths run up to 2 pi base.
        ratio: Divisor of the last head's biases; head h of H has ratio h / H.
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
        # Whole numbers are exact in any precision, and the buffer has the precision of the model.
        self.register_buffer("heads", torch.arange(1.0, dims.n_heads + 1), persistent=False)

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"]:
        heads = upcast(self.heads) * (self.ratio / len(self.heads))
        distance = (q_positions[:, None] - k_positions[None, :]).to(heads.dtype)
        index = torch.arange(2, self.width + 1, 2, device=distance.device, dtype=heads.dtype) / self.width
        cosines = torch.cos(distance[:, :, None] * self.base**-index)
        return (cosines - 1).sum(-1) / heads[:, None, None]
