"""Norm before each sub-layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "pre_norm")
class PreNormBlock(Block):
    """x + attention(norm(x)), then x + ffn(norm(x)): the pre-LN block (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), ctx, substate(state, "attention")))
        return x + self.dropout(self.ffn(self.ffn_norm(x), ctx, substate(state, "ffn")))
