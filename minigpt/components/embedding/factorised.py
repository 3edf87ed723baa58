"""A table in two factors."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Embedding, State
from minigpt.registry import register


@register("embedding", "factorised")
class Factorised(Embedding):
    """A narrow table, and a map from its width to that of the model (ALBERT: Lan et al. 2019, arXiv:1909.11942).

    x = U e(token),  logits = E (U^T x): V rank + rank D weights in place of V D.

    Args:
        rank: Width of the table.
        tied: The output map shares both factors; false for a full one with separate weights.
    """

    def __init__(self, dims: Dims, *, rank: Annotated[int, Field(gt=0)] = 64, tied: bool = True):
        super().__init__()
        self.dims, self.tied = dims, tied
        self.table = nn.Embedding(dims.vocab_size, rank)
        self.up = nn.Linear(rank, dims.d_model, bias=False)

    def forward(
        self, tokens: Int[Tensor, "batch time"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x: Tensor = self.up(self.table(tokens))
        return x

    def build_head(self) -> nn.Module | None:
        return None if self.tied else nn.Linear(self.dims.d_model, self.dims.vocab_size, bias=False)

    def logits(self, x: Float[Tensor, "batch time d_model"], head: nn.Module | None) -> Float[Tensor, "batch time vocab"]:
        if head is not None:
            logits: Tensor = head(x)
            return logits
        return F.linear(F.linear(x, self.up.weight.T), self.table.weight)
