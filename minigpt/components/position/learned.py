"""Learned absolute positions."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from minigpt.contracts import Dims, Position
from minigpt.registry import register


@register("position", "learned")
class LearnedPosition(Position):
    """One trained vector for each of block_size positions, added to the embeddings (GPT-2: Radford et al. 2019).

    There are no vectors for positions from block_size on.
    """

    per_row = True

    def __init__(self, dims: Dims):
        super().__init__()
        self.max_positions = dims.block_size
        self.table = nn.Embedding(dims.block_size, dims.d_model)

    def embed(
        self, x: Float[Tensor, "batch time d_model"], positions: Int[Tensor, "*batch time"]
    ) -> Float[Tensor, "batch time d_model"]:
        return x + self.table(positions)
