"""my_part: the feed-forward that follows attention.

It receives the normalised stream x [batch, time, d_model], and returns the values to
add to the stream, in x's shape. `ctx.tokens` has the ids of the tokens; append an
auxiliary loss to `ctx.losses`. Keyword-only arguments are its JSON parameters: annotate
each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- tokens are independent; a feed-forward that looks back keeps earlier tokens in a state
  (`new_state`), and then decoding in any chunks equals the full pass;
- outputs are finite and of x's shape, in fp32 and under bf16;
- every parameter gets a gradient and every keyword argument changes something;
- random numbers are drawn only in training, and follow the torch seed.

Edit first: the lines of `forward` between `into` and `out`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from minigpt.registry import register


@register("ffn", "my_part")
class MyPart(FeedForward):
    """W_out f(W_in x) with f(z) = z sigmoid(s z), and a trained s for each hidden unit.

    Swish as first proposed (Ramachandran et al. 2017, arXiv:1710.05941): s = 1 is SiLU,
    a large s almost ReLU.

    Args:
        expansion: Hidden width as a multiple of d_model.
        slope: Initial s.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expansion: Annotated[float, Field(gt=0, le=64)] = 4.0,
        slope: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__()
        hidden = max(1, round(expansion * dims.d_model))
        self.into = nn.Linear(dims.d_model, hidden)
        self.slope = nn.Parameter(torch.full((hidden,), slope))
        # ResidualLinear starts smaller in deep models, as maps into the stream should.
        self.out = ResidualLinear(hidden, dims.d_model)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        ctx: Context,
        state: State | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        hidden = self.into(x)
        return self.out(hidden * torch.sigmoid(self.slope * hidden))
