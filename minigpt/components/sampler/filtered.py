"""Temperature, top-k, top-p and min-p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Sampler
from minigpt.registry import register


@register("sampler", "filtered")
class Filtered(Sampler):
    """The softmax after temperature, top-k, top-p (arXiv:1904.09751) and min-p (arXiv:2407.01082), in that order.

    The most likely token is never removed.

    Args:
        temperature: Divides the logits; 0 always takes the most likely token.
        top_k: Keep the k most likely tokens.
        top_p: Keep the most likely tokens that together have this probability.
        min_p: Keep tokens with at least this share of the highest probability.
    """

    def __init__(
        self,
        *,
        temperature: Annotated[float, Field(ge=0)] = 0.8,
        top_k: Annotated[int, Field(gt=0)] | None = None,
        top_p: Annotated[float, Field(gt=0, le=1)] | None = None,
        min_p: Annotated[float, Field(ge=0, le=1)] | None = None,
    ):
        self.temperature, self.top_k, self.top_p, self.min_p = temperature, top_k, top_p, min_p

    def probabilities(self, logits: Float[Tensor, " vocab"], ids: Sequence[int], memory: Any) -> Float[Tensor, " vocab"]:
        logits = logits.double()
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        logits = (logits - logits.amax()) / self.temperature  # the maximum is 0, so a tiny temperature does not overflow
        if self.top_k is not None and self.top_k < len(logits):
            kept = logits.topk(self.top_k)
            logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
        probabilities = logits.softmax(-1)
        if self.top_p is not None:
            ordered, order = probabilities.sort(descending=True, stable=True)
            removed = ordered.cumsum(-1) - ordered >= self.top_p  # the tokens before it already have enough mass
            probabilities = probabilities.scatter(-1, order, ordered.masked_fill(removed, 0.0))
        if self.min_p is not None:
            probabilities = probabilities.masked_fill(probabilities < self.min_p * probabilities.amax(), 0.0)
        return probabilities / probabilities.sum()
