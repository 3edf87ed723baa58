"""my_part: a position, which makes the order of tokens visible to the model.

A position overrides the hooks that it needs. The inherited hooks do nothing:

- `embed(x, positions)` adds to the token embeddings, once, before the first block;
- `rotate(q, k, positions)` rotates queries and keys before keys are cached;
- `bias(q_positions, k_positions)` returns a bias for the scores, [heads, time, source],
  or one plane for all heads.

Positions are absolute, and nothing else counts tokens: in decoding the queries are a
few new tokens and the keys all cached tokens. Keyword-only arguments are its JSON
parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- each entry of the bias depends only on the positions of its query and key, each
  rotated vector only on its own position, and all are finite up to `max_positions`;
- a model with it stays causal, and decoding from its state equals the full pass;
- every parameter gets a gradient and every keyword argument changes something;
- its promises hold: `relative`, `keeps_norm`, `max_positions`.

Edit first: `bias`, and `relative` if it depends on more than the distance.
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
    """Scores fall with the logarithm of the distance, with a trained slope per head.

    bias = -s_h log(1 + q - k), with initially evenly spaced slopes s_h.

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
        # Later keys are masked in any case; their biases only have to be finite.
        distance = (q_positions[:, None] - k_positions[None, :]).clamp(min=0).to(self.slopes.dtype)
        return -self.slopes[:, None, None] * torch.log1p(distance)
