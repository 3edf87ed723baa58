"""Attention and feed-forward side by side."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "parallel")
class ParallelBlock(Block):
    """x + attention(norm(x)) + ffn(norm(x)): both read the same input (GPT-J; PaLM: arXiv:2204.02311).

    Args:
        shared_norm: One norm for both sub-layers (GPT-J, PaLM); false for one each (GPT-NeoX, arXiv:2204.06745).
    """

    def __init__(self, dims: Dims, layer: Layer, *, shared_norm: bool = True):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.ffn_norm = None if shared_norm else layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.ffn = layer.ffn.build(dims)
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        normed = self.attention_norm(x)
        ffn_input = normed if self.ffn_norm is None else self.ffn_norm(x)
        mixed = self.attention(normed, ctx, substate(state, "attention"))
        return x + self.dropout(mixed) + self.dropout(self.ffn(ffn_input, ctx, substate(state, "ffn")))
