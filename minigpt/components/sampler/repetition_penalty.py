"""A penalty on tokens that the text already contains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Sampler, SamplerSpec
from minigpt.registry import register


@register("sampler", "repetition_penalty")
class RepetitionPenalty(Sampler):
    """CTRL's penalty on repetitions (arXiv:1909.05858): logits of earlier tokens are divided by it; then another sampler.

    Negative logits are multiplied, because to divide them would make the token more likely.

    Args:
        penalty: 1 for none; the paper's value is 1.2.
        window: How many of the last ids count, the prompt's included; null for all.
        sampler: Draws with the changed logits.
    """

    def __init__(
        self,
        *,
        penalty: Annotated[float, Field(ge=1)] = 1.2,
        window: Annotated[int, Field(gt=0)] | None = None,
        sampler: SamplerSpec = "filtered",  # type: ignore[assignment] # as a value in JSON
    ):
        self.penalty, self.window, self.sampler = penalty, window, sampler.build()

    def new_memory(self) -> Any:
        return self.sampler.new_memory()

    def probabilities(self, logits: Float[Tensor, " vocab"], ids: Sequence[int], memory: Any) -> Float[Tensor, " vocab"]:
        earlier = torch.tensor(sorted(set(ids[-self.window :] if self.window else ids)), dtype=torch.long)
        logits = logits.double()
        values = logits[earlier]
        penalised = torch.where(values > 0, values / self.penalty, values * self.penalty)
        return self.sampler.probabilities(logits.index_copy(0, earlier, penalised), ids, memory)

    def observe(self, token: int, probabilities: Float[Tensor, " vocab"], memory: Any) -> None:
        self.sampler.observe(token, probabilities, memory)
