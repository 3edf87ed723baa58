"""Skip connections from the first half of the layers to the second."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.block.pre_norm import PreNormBlock
from minigpt.contracts import Context, Dims, Layer, State
from minigpt.registry import register


@register("block", "unet")
class UNetBlock(PreNormBlock):
    """Pre-norm; layer i of the second half first adds w times the output of layer N-1-i: x_i + w x_(N-1-i).

    The innermost pair comes first. Long skips in a transformer are from U-ViT (Bao et al. 2022, arXiv:2209.12152), which
    concatenates; one trained number w for each skip is from modded-nanogpt (Jordan et al. 2024). With an odd number of
    layers the middle one has no partner.

    Args:
        weight: Initial w.
    """

    def __init__(self, dims: Dims, layer: Layer, *, weight: Annotated[float, Field(ge=0)] = 1.0):
        super().__init__(dims, layer)
        self.partner = dims.n_layers - 1 - dims.layer
        self.skip_weight = nn.Parameter(torch.tensor(weight)) if self.partner < dims.layer else None

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        if self.skip_weight is not None:
            x = x + self.skip_weight * ctx.outputs[self.partner + 1]  # outputs[0] is the input of layer 0
        return super().forward(x, ctx, state)
