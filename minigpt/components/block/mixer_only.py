"""A block without a feed-forward."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "mixer_only")
class MixerOnlyBlock(Block):
    """x + attention(norm(x)), and nothing else: attention-only models (Elhage et al. 2021), stacks of Mamba-2.

    It has no feed-forward, even if the model chooses one.
    """

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        return x + self.dropout(self.attention(self.attention_norm(x), ctx, substate(state, "attention")))
