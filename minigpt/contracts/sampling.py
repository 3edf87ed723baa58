"""The contract of samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor


class Sampler(ABC):
    """How the next token is drawn. Constructor: `(*, ...)`.

    A sampler itself remembers nothing between texts. What it must know of earlier tokens is in `ids`, or in the text's
    memory. Decoding calls `probabilities`, draws a token, and calls `observe`, once for every token.
    """

    def new_memory(self) -> Any:
        """A new memory for one text, which `copy.deepcopy` can copy; None if there is nothing to remember."""
        return None

    @abstractmethod
    def probabilities(self, logits: Float[Tensor, " vocab"], ids: Sequence[int], memory: Any) -> Float[Tensor, " vocab"]:
        """The probability of each next token, in float64; they sum to 1.

        A function of its arguments: a second call with the same arguments gives the same result. It may only note in the
        memory what `observe` needs of the logits.

        Args:
            logits: Of the model, in fp32 or float64, not to be changed. Some may be -inf, but not all.
            ids: All ids of the text so far, the prompt included, not to be changed or kept.
            memory: The text's memory.
        """

    def observe(self, token: int, probabilities: Float[Tensor, " vocab"], memory: Any) -> None:
        """Change the text's memory after a token was drawn.

        Args:
            token: The token that was drawn.
            probabilities: The probabilities that it was drawn with, not to be changed.
            memory: The text's memory.
        """
        return
