"""my_part: a block, which makes a layer of norms, residual connections and parts.

It receives the residual stream x [batch, time, d_model] and returns the stream for the
next layer. `layer` has the parts that the experiment chose: build as many norms as you
need. `ctx.outputs` has the streams before the first block and after each earlier
one. Keyword-only arguments are its JSON parameters: annotate each one, give it
bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- with any parts, output t depends only on inputs up to t of the same sequence;
- decoding equals the full pass: each part gets the state with its attribute's name,
  `substate(state, "attention")`, and no other;
- every parameter gets a gradient and every keyword argument changes something;
- its promise holds: `starts_as_identity`. `final_norm` says whether the model needs a
  norm after the last block.

Edit first: `forward`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "my_part")
class MyPart(Block):
    """x + a attention(norm(x)), then x + f ffn(norm(x)), with trained numbers a and f.

    Args:
        scale: Initial a and f; 1 starts as the plain pre-norm block.
    """

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        scale: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.attention_scale = nn.Parameter(torch.tensor(scale))
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.ffn_scale = nn.Parameter(torch.tensor(scale))
        self.dropout = Dropout(dims.dropout)  # on the output of each part

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        ctx: Context,
        state: State | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        remembered = substate(state, "attention")
        mixed = self.attention(self.attention_norm(x), ctx, remembered)
        x = x + self.attention_scale * self.dropout(mixed)
        added = self.ffn(self.ffn_norm(x), ctx, substate(state, "ffn"))
        return x + self.ffn_scale * self.dropout(added)
