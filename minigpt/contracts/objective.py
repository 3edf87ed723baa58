"""The contract of objectives: what training minimises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from minigpt.contracts.parts import Component, Context

Teacher = Callable[[Int[Tensor, "batch time"]], Float[Tensor, "batch time vocab"]]
"""From ids to the logits of the next token, without gradients."""


@runtime_checkable
class Embed(Protocol):
    """From ids, and their segments if there are any, to vectors."""

    def __call__(
        self, tokens: Int[Tensor, "batch time"], segments: Int[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """The vectors of tokens."""


def _no_run(path: str) -> Teacher:
    raise RuntimeError(f"{path} cannot be opened: this prediction was made without a way to open runs")


@dataclass(frozen=True)
class Prediction:
    """What an objective sees of a training step.

    Attributes:
        tokens: Input ids.
        targets: The id that follows each input id.
        mask: Which targets count; None for all.
        hidden: The input of the output map, after the final norm.
        logits: The logits of the next token.
        ctx: The context of the last layer. Further terms are appended to `ctx.losses`.
        embed: The model's embedding, from ids and their segments (as in `ctx.segments`) to vectors, without state.
        to_logits: The model's output map, from vectors such as `hidden` to logits.
        remembers: Whether earlier tokens were read before these (`Batch.memory`).
        open_run: Opens a finished run with the same vocabulary, by its folder, once.
    """

    tokens: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"] | None
    hidden: Float[Tensor, "batch time d_model"]
    logits: Float[Tensor, "batch time vocab"]
    ctx: Context
    embed: Embed
    to_logits: Callable[[Float[Tensor, "batch time d_model"]], Float[Tensor, "batch time vocab"]]
    remembers: bool = False
    open_run: Callable[[str], Teacher] = _no_run

    def mean(self, each: Float[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """Mean over the targets that count. The values of the others do not matter."""
        if self.mask is None:
            return each.mean()
        return each.masked_fill(~self.mask, 0.0).sum() / self.mask.sum().clamp(min=1)


class Objective(Component):
    """What training minimises. Constructor: `(dims, layer, *, ...)`, with the components of the model's last layer.

    It may have weights, which are trained and saved with the model. Validation does not use it: that is always
    the mean cross-entropy of the next token.
    """

    @abstractmethod
    def forward(self, prediction: Prediction) -> Float[Tensor, ""]:
        """The loss, in fp32 or wider: a mean over the targets that count, so that the parts of a batch add up.

        It is recorded as `train_loss`. Terms that are appended to `prediction.ctx.losses` are minimised too and recorded as
        `auxiliary_loss`.
        """
