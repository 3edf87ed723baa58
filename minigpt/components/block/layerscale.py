"""Pre-norm with a trained scale on each sub-layer's output."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "layerscale")
class LayerScaleBlock(Block):
    """x + s * attention(norm(x)), then x + s * ffn(norm(x)), a small trained s for each channel (CaiT: arXiv:2103.17239).

    Args:
        scale: Initial s.
    """

    def __init__(self, dims: Dims, layer: Layer, *, scale: Annotated[float, Field(gt=0)] = 0.1):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.attention_scale = nn.Parameter(torch.full((dims.d_model,), scale))
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.ffn_scale = nn.Parameter(torch.full((dims.d_model,), scale))
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        mixed = self.attention(self.attention_norm(x), ctx, substate(state, "attention"))
        x = x + self.dropout(mixed) * self.attention_scale
        return x + self.dropout(self.ffn(self.ffn_norm(x), ctx, substate(state, "ffn"))) * self.ffn_scale
