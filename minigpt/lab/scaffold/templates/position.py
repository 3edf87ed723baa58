"""my_part: how the model knows where a token stands.

A position overrides the hooks that it needs, and inherits the others, which do nothing:

- `embed(x, positions)` adds to the token embeddings, once, before the first block;
- `rotate(q, k, positions)` turns queries and keys before keys are remembered;
- `bias(q_positions, k_positions)` gives what is added to the scores, [heads, time,
  source], or one plane for all heads.

Positions are absolute, and the only clock there is: in decoding the queries are a few
new tokens and the keys all that is remembered. Keyword-only arguments are its JSON
parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

holds it to this:

- each entry of the bias depends on its own query's and key's position alone, each
  rotated vector on its own position, and all are finite up to `max_positions`;
- a model with it stays causal and decodes from its state as it computes at once;
- every parameter gets a gradient and every keyword argument changes something;
- what it promises is so: `relative`, `keeps_norm`, `max_positions`.

Edit first: `bias`, and `relative` if more than the distance comes to matter.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Dims, Position
from minigpt.registry import register


@register("position", "my_part")
class MyPart(Position):
    """Scores fall with the logarithm of the distance, at a trained slope for each head.

    bias = -s_h log(1 + q - k), the slopes s_h evenly spaced at first.

    Args:
        slope: Initial slope of the steepest head.
    """

    relative = True

    def __init__(self, dims: Dims, *, slope: Annotated[float, Field(gt=0)] = 1.0):
        super().__init__()
        self.slopes = nn.Parameter(torch.linspace(0, slope, dims.n_heads + 1)[1:])

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"]:
        # Keys that come later are masked anyway; they only have to stay finite.
        distance = (q_positions[:, None] - k_positions[None, :]).clamp(min=0).to(self.slopes.dtype)
        return -self.slopes[:, None, None] * torch.log1p(distance)
