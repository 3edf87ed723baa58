"""Norm after each residual sum."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "post_norm")
class PostNormBlock(Block):
    """norm(x + attention(x)), then norm(x + ffn(x)): the original transformer (Vaswani et al. 2017, arXiv:1706.03762)."""

    final_norm = False

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
        x = self.attention_norm(x + self.dropout(self.attention(x, ctx, substate(state, "attention"))))
        return self.ffn_norm(x + self.dropout(self.ffn(x, ctx, substate(state, "ffn"))))
