"""Vectors of hashed n-grams, added to those of the tokens."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Embedding, EmbeddingSpec, State, substate
from minigpt.registry import register

_PRIME, _MULTIPLIER = 2_147_483_647, 1_000_003
"""Products of a value below the prime and the multiplier fit into 64 bits."""


@register("embedding", "ngram_hash")
class NgramHash(Embedding):
    """Each token's vector, plus one for the n-gram that ends there (over-tokenized: Huang et al. 2025, arXiv:2501.16975).

    The n-grams of a length share a table: h = ((t_1 + 1) m + t_2 + 1) m + ... modulo a prime, then modulo `buckets`. An
    n-gram that would begin before the text, or in another segment, adds nothing.

    Args:
        orders: Lengths of the n-grams.
        buckets: Rows of the table of each length.
        embedding: The embedding of single tokens, which gives the logits too.
    """

    uses = frozenset({"segments"})

    def __init__(
        self,
        dims: Dims,
        *,
        orders: Annotated[list[Annotated[int, Field(ge=2, le=8)]], Field(min_length=1)] = [2, 3],  # noqa: B006
        buckets: Annotated[int, Field(gt=1, lt=_PRIME)] = 4096,
        embedding: EmbeddingSpec = "table",  # type: ignore[assignment]
    ):
        super().__init__()
        if len(set(orders)) < len(orders):
            raise ValueError(f"orders {orders}: a length occurs twice")
        self.orders, self.buckets = tuple(orders), buckets
        self.inner = embedding.build(dims)
        self.tables = nn.ModuleList(nn.Embedding(buckets, dims.d_model) for _ in orders)

    def forward(
        self, tokens: Int[Tensor, "batch time"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x: Tensor = self.inner(tokens, ctx, substate(state, "inner"))
        back = max(self.orders) - 1
        earlier = tokens.new_zeros(len(tokens), back) if state is None else state.tensors["earlier"]
        ids = torch.cat((earlier, tokens), 1)
        if state is not None:
            state.tensors["earlier"] = ids[:, -back:]
        segments = self._segments(ctx, state)
        for order, table in zip(self.orders, self.tables, strict=True):
            rows = table(self._buckets(ids, order, tokens.shape[1]))
            complete = (ctx.positions >= order - 1)[None]  # inside the text, and inside one segment
            if segments is not None:
                first = segments[:, back - order + 1 : segments.shape[1] - order + 1]
                complete = complete & (first == ctx.segments)
            x = x + rows.masked_fill(~complete[..., None], 0.0)
        return x

    def _segments(self, ctx: Context, state: State | None) -> Int[Tensor, "batch all"] | None:
        """The segments of all tokens of the n-grams; those of tokens before the text do not matter."""
        if ctx.segments is None:
            return None
        back = max(self.orders) - 1
        earlier = ctx.segments.new_zeros(len(ctx.segments), back)
        if state is not None:
            earlier = state.tensors.get("segments", earlier)
        segments = torch.cat((earlier, ctx.segments), 1)
        if state is not None:
            state.tensors["segments"] = segments[:, -back:]
        return segments

    def _buckets(self, ids: Int[Tensor, "batch all"], order: int, time: int) -> Int[Tensor, "batch time"]:
        """The row of the n-gram that ends at each of the last `time` tokens."""
        hashed = torch.zeros_like(ids[:, -time:])
        for back in range(order - 1, -1, -1):
            end = ids.shape[1] - back
            hashed = (hashed * _MULTIPLIER + ids[:, end - time : end] + 1) % _PRIME
        return hashed % self.buckets

    def build_head(self) -> nn.Module | None:
        return self.inner.build_head()

    def logits(self, x: Float[Tensor, "batch time d_model"], head: nn.Module | None) -> Float[Tensor, "batch time vocab"]:
        return self.inner.logits(x, head)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        inner = self.inner.new_state(batch, capacity, device, dtype)
        earlier = torch.zeros(batch, max(self.orders) - 1, dtype=torch.long, device=device)
        return State({"earlier": earlier}, {} if inner is None else {"inner": inner})
