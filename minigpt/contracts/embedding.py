"""The contract of embeddings: tokens in, logits out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from minigpt.contracts.optimizing import Role
from minigpt.contracts.parts import Component, Context
from minigpt.contracts.state import State


class Embedding(Component):
    """Both ends of the model: the table that tokens are read from, and the map to logits. Constructor: `(dims, *, ...)`."""

    roles: ClassVar[Mapping[str, Role]] = {}
    """Roles of own parameters, by dotted name, for optimizers. Without an entry, weights of nn.Embedding have the role
    `embedding`, other parameters with two or more axes `matrix`, and the rest `vector`."""

    @abstractmethod
    def forward(
        self, tokens: Int[Tensor, "batch time"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """The vectors that enter the first block, before position and dropout.

        An embedding that looks back at earlier tokens keeps them in its state.
        """

    def build_head(self) -> nn.Module | None:
        """An output map with separate weights; None if `logits` needs none, for example because it uses the table.

        The model keeps it as `head`, after the blocks, and optimizers see its weights with the role `head`.
        """
        return None

    @abstractmethod
    def logits(self, x: Float[Tensor, "batch time d_model"], head: nn.Module | None) -> Float[Tensor, "batch time vocab"]:
        """The logits of the next token, each from its own position's vector.

        Args:
            x: The last block's output, after the final norm.
            head: What `build_head` returned.
        """
