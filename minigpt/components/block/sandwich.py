"""Norm before and after each sub-layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "sandwich")
class SandwichBlock(Block):
    """x + norm(attention(norm(x))), then the same with ffn (CogView: arXiv:2105.13290; Gemma 2: arXiv:2408.00118)."""

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.attention_out_norm = layer.norm.build(dims.d_model)
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.ffn_out_norm = layer.norm.build(dims.d_model)
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        mixed = self.attention(self.attention_norm(x), ctx, substate(state, "attention"))
        x = x + self.dropout(self.attention_out_norm(mixed))
        return x + self.dropout(self.ffn_out_norm(self.ffn(self.ffn_norm(x), ctx, substate(state, "ffn"))))
