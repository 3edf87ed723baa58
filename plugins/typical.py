"""Locally typical sampling: an example plugin, a sampler.

Use it by naming this file in an experiment's "plugins" (see experiments/typical.json), or with any trained run:

    minigpt generate runs/quickstart/seed-1337 --plugin plugins/typical.py --set sampling.sampler=typical
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Sampler
from minigpt.registry import register


@register("sampler", "typical")
class Typical(Sampler):
    """Keeps the tokens whose surprise is nearest to the entropy (locally typical sampling: arXiv:2202.00666).

    Tokens are ordered by |-log p - H|, with the entropy H = -sum p log p. The first ones with together at least `mass` are
    kept. So the most likely token is removed where it says less than a token does on average.

    Args:
        mass: Probability of the kept tokens together, at least (the paper's tau).
    """

    def __init__(self, *, mass: Annotated[float, Field(gt=0, le=1)] = 0.95):
        self.mass = mass

    def probabilities(self, logits: Float[Tensor, " vocab"], ids: Sequence[int], memory: Any) -> Float[Tensor, " vocab"]:
        p = logits.double().softmax(-1)
        entropy = torch.special.entr(p).sum()  # 0 for a token of probability 0, where p log p is not a number
        order = (-p.log() - entropy).abs().sort(stable=True).indices
        ordered = p[order]
        removed = ordered.cumsum(-1) - ordered >= self.mass  # the tokens before it have enough mass already
        kept = p.scatter(-1, order, ordered.masked_fill(removed, 0.0))
        return kept / kept.sum()
