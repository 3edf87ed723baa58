"""No transformation at all."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Context, Dims, FeedForward, State
from minigpt.registry import register


@register("ffn", "identity")
class Identity(FeedForward):
    """f(x) = x: a feed-forward sub-layer without weights.

    What stays is what the block makes of it. With post_norm, deepnorm and ngpt the sub-layer drops out, up to one more norm:
    norm(x + x) = norm(x). With pre_norm x + norm(x) remains: no channel is mixed with another, and the stream is lengthened
    by its own direction. For layers without this sub-layer there is the block `mixer_only`.
    """

    def __init__(self, dims: Dims):
        super().__init__()

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        return x
