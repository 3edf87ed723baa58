"""my_part: how the next token is drawn.

`probabilities` receives the model's logits for the next token, in fp32 or float64, and
all ids of the text so far. It returns the probability of each token in float64. What a
text must remember beyond its ids is in the memory that `new_memory` returns: each text
has its own, and `observe` changes it after each drawn token. Keyword-only arguments are
its JSON parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- probabilities are finite, not negative and sum to 1, also for logits of -inf;
- they depend on logits, ids and memory alone: no random numbers, no clock;
- texts that are drawn in turn do not influence each other;
- a memory can be copied, and nothing that is received is changed;
- every keyword argument changes something.

Edit first: the last line of `probabilities`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Sampler
from minigpt.registry import register


@dataclass
class _Memory:
    """What one text remembers: the temperature of its next token."""

    temperature: float = 1.0


@register("sampler", "my_part")
class MyPart(Sampler):
    """The softmax with a temperature that follows the surprise of the drawn tokens.

    T <- T 2^(rate (bits + log2 p)), where p is the probability of the drawn token.

    Args:
        bits: The mean surprise to reach, in bits per token.
        rate: How fast the temperature follows; 0 keeps it at 1.
    """

    def __init__(
        self,
        *,
        bits: Annotated[float, Field(gt=0)] = 2.0,
        rate: Annotated[float, Field(ge=0, le=1)] = 0.05,
    ):
        self.bits, self.rate = bits, rate

    def new_memory(self) -> _Memory:
        return _Memory()

    def probabilities(self, logits: Float[Tensor, " vocab"], ids: Sequence[int], memory: _Memory) -> Float[Tensor, " vocab"]:
        relative = logits.double() - logits.max().double()  # not in place: the logits are not its own
        return (relative / memory.temperature).softmax(-1)

    def observe(self, token: int, probabilities: Float[Tensor, " vocab"], memory: _Memory) -> None:
        error = self.bits + math.log2(float(probabilities[token]))
        changed = memory.temperature * 2 ** (self.rate * error)
        memory.temperature = min(max(changed, 0.1), 10.0)
