"""Norm after each sub-layer, before the residual sum."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "reordered")
class ReorderedNormBlock(Block):
    """x + norm(attention(x)), then x + norm(ffn(x)): norms only on outputs of sub-layers (OLMo 2: arXiv:2501.00656)."""

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.attention = layer.attention.build(dims)
        self.attention_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x = x + self.dropout(self.attention_norm(self.attention(x, ctx, substate(state, "attention"))))
        return x + self.dropout(self.ffn_norm(self.ffn(x, ctx, substate(state, "ffn"))))
