"""Residual weights that start at zero."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "rezero")
class ReZeroBlock(Block):
    """x + a attention(x), then x + a ffn(x), with a trained a from 0 on (Bachlechner et al. 2020, arXiv:2003.04887).

    It contains no norm; the model has one after the last block.
    """

    starts_as_identity = True

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.attention = layer.attention.build(dims)
        self.ffn = layer.ffn.build(dims)
        self.weight = nn.Parameter(torch.zeros(()))
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x = x + self.weight * self.dropout(self.attention(x, ctx, substate(state, "attention")))
        return x + self.weight * self.dropout(self.ffn(x, ctx, substate(state, "ffn")))
