"""my_part: how norms and residual connections make a layer of its parts.

It receives the residual stream x [batch, time, d_model] and returns the stream that the
next layer reads. `layer` has the parts that the experiment chose: build a norm as often
as one is needed. `ctx.outputs` are the streams before the first and after each earlier
block. Keyword-only arguments are its JSON parameters: annotate each one, give it
bounds, and explain it under Args.

    minigpt check plugins/my_part.py

holds it to this:

- with any parts, output t depends on inputs up to t and on its own sequence alone;
- decoding equals the full pass: each part gets the state under its attribute's name,
  `substate(state, "attention")`, and passes none of it on;
- every parameter gets a gradient and every keyword argument changes something;
- what it promises is so: `starts_as_identity`. And `final_norm` says whether the model
  needs a norm after the last block.

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
    """x + a attention(norm(x)), then x + f ffn(norm(x)), the numbers a and f trained.

    Args:
        scale: Initial a and f; 1 begins as the plain pre-norm block.
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
        self.dropout = Dropout(dims.dropout)  # of what is added to the stream

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
