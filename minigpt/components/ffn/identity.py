"""A feed-forward that returns its input."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Context, Dims, FeedForward, State
from minigpt.registry import register


@register("ffn", "identity")
class Identity(FeedForward):
    """f(x) = x: a feed-forward sub-layer without weights.

    The result depends on the block. With post_norm, deepnorm and ngpt the sub-layer has no effect, up to one more norm:
    norm(x + x) = norm(x). With pre_norm x + norm(x) remains: channels do not mix, and the stream grows in its own direction.
    The block `mixer_only` removes the sub-layer.
    """

    def __init__(self, dims: Dims):
        super().__init__()

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        return x
