"""The usual embedding: a table of vectors, and logits by the same or another table."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Component, Context, Dims, Embedding, NormSpec, State
from minigpt.registry import register


@register("embedding", "table")
class Table(Embedding, nn.Embedding):
    """A table of token vectors; logits are products with the rows of the same table, or of another one.

    Args:
        tied: The output map shares the table's weights (Press and Wolf 2016, arXiv:1608.05859).
        norm: Norm on the token vectors (BLOOM: arXiv:2211.05100); null for none.
        scale: Factor on the token vectors; "sqrt" for sqrt(d_model) (Vaswani et al. 2017; Gemma).
        unit: Rows of both tables are normalised to length 1, and each logit has a trained scale (nGPT: arXiv:2410.01131);
            for block ngpt.
        softcap: Logits are kept within +-softcap by a tanh (Gemma 2: arXiv:2408.00118); null for no cap.
        bias: A trained bias on each logit.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        tied: bool = True,
        norm: NormSpec | None = None,
        scale: Annotated[float, Field(gt=0)] | Literal["sqrt"] = 1.0,
        unit: bool = False,
        softcap: Annotated[float, Field(gt=0)] | None = None,
        bias: bool = False,
    ):
        super().__init__(dims.vocab_size, dims.d_model)
        self.norm = norm.build(dims.d_model) if norm else None
        self.scale = math.sqrt(dims.d_model) if scale == "sqrt" else scale
        self.tied, self.unit, self.softcap = tied, unit, softcap
        # 1/sqrt(D) turns the product of a unit row and a vector of root mean square 1 into their cosine.
        self.logit_scale = nn.Parameter(torch.full((dims.vocab_size,), dims.d_model**-0.5)) if unit else None
        self.bias = nn.Parameter(torch.zeros(dims.vocab_size)) if bias else None

    def forward(  # type: ignore[override]
        self, tokens: Int[Tensor, "batch time"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x = nn.Embedding.forward(self, tokens)
        x = x if self.norm is None else self.norm(x)
        return x if self.scale == 1 else x * self.scale

    def build_head(self) -> nn.Module | None:
        if self.tied:
            return None
        kind = _UnitLinear if self.unit else nn.Linear
        return kind(self.embedding_dim, self.num_embeddings, bias=False)

    def logits(self, x: Float[Tensor, "batch time d_model"], head: nn.Module | None) -> Float[Tensor, "batch time vocab"]:
        logits = F.linear(x, self.weight) if head is None else head(x)
        if self.bias is not None:
            logits = logits + self.bias
        if self.logit_scale is not None:
            logits = logits * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def after_step(self) -> None:
        """Normalise the rows to length 1, if the experiment says so."""
        if self.unit:
            self.weight.copy_(F.normalize(self.weight, dim=-1))


class _UnitLinear(nn.Linear, Component):
    """A linear map with rows of length 1."""

    def after_step(self) -> None:
        self.weight.copy_(F.normalize(self.weight, dim=-1))
