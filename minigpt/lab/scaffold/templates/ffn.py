"""my_part: the feed-forward that follows attention.

It receives the normed stream x [batch, time, d_model], and returns what is added to the
stream, of x's shape. `ctx.tokens` are the tokens' ids; an auxiliary loss is appended to
`ctx.losses`. Keyword-only arguments are its JSON parameters: annotate each one, give it
bounds, and explain it under Args.

    minigpt check plugins/my_part.py

holds it to this:

- each token is treated by itself; one that looks back at earlier tokens remembers them
  in a state (`new_state`), and then decodes in any chunks as it computes at once;
- outputs are finite and of x's shape, in fp32 and under bf16;
- every parameter gets a gradient and every keyword argument changes something;
- random numbers are drawn in training only, and follow the torch seed.

Edit first: what `forward` does between `into` and `out`.
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
    """W_out f(W_in x) with f(z) = z sigmoid(s z), s trained for each hidden unit.

    Swish as it was first proposed (Ramachandran et al. 2017, arXiv:1710.05941): s = 1
    is SiLU, a large s nearly ReLU.

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
        # Initialised smaller with depth, as whatever writes to the stream should be.
        self.out = ResidualLinear(hidden, dims.d_model)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        ctx: Context,
        state: State | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        hidden = self.into(x)
        return self.out(hidden * torch.sigmoid(self.slope * hidden))
