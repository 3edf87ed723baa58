"""my_part: both ends of the model, tokens in and logits out.

`forward` receives ids [batch, time] and returns the vectors that enter the first block;
position and dropout follow. `logits` maps the last block's vectors, after the final
norm, to the logits of the next token: with the table, or with a map from `build_head`,
which the model keeps as its head. Keyword-only arguments are its JSON parameters:
annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- vector t and logits t depend only on tokens up to t of the same sequence;
- an embedding that looks back keeps earlier tokens in a state (`new_state`), and then
  decoding in any chunks equals the full pass;
- logits are [batch, time, vocab], finite and of the vectors' dtype;
- every parameter gets a gradient and every keyword argument changes something.

Edit first: the last line of `forward`.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Embedding, State
from minigpt.registry import register


@register("embedding", "my_part")
class MyPart(Embedding):
    """e(token) + s e(the token before), with a trained s for each coordinate.

    Args:
        share: Initial s.
        tied: Logits are products with the table's rows; false for a separate map.
    """

    uses = frozenset({"segments"})  # a token of another segment adds nothing

    def __init__(
        self,
        dims: Dims,
        *,
        share: Annotated[float, Field(ge=-1, le=1)] = 0.1,
        tied: bool = True,
    ):
        super().__init__()
        self.sizes = (dims.d_model, dims.vocab_size)
        self.table = nn.Embedding(dims.vocab_size, dims.d_model)
        self.share = nn.Parameter(torch.full((dims.d_model,), share))
        self.tied = tied

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        ctx: Context,
        state: State | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        x = self.table(tokens)
        first = torch.zeros_like(x[:, :1]) if state is None else state.tensors["last"].to(x.dtype)
        before = torch.cat((first, x[:, :-1]), 1)
        if state is not None:
            state.tensors["last"].copy_(x[:, -1:])
        if ctx.segments is not None:  # the first token of a segment has no token before it
            segment = ctx.segments[:, :1] if state is None else state.tensors["segment"]
            same = torch.cat((segment, ctx.segments[:, :-1]), 1) == ctx.segments
            before = before * same[..., None]
            if state is not None:
                state.tensors["segment"] = ctx.segments[:, -1:]
        return x + self.share * before

    def build_head(self) -> nn.Module | None:
        return None if self.tied else nn.Linear(*self.sizes, bias=False)

    def logits(self, x: Float[Tensor, "batch time d_model"], head: nn.Module | None) -> Float[Tensor, "batch time vocab"]:
        return F.linear(x, self.table.weight) if head is None else head(x)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        """The vector of the token before, and its segment."""
        last = torch.zeros(batch, 1, self.sizes[0], device=device, dtype=dtype)
        segment = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return State({"last": last, "segment": segment})
