"""Canon layers, as a plugin: short causal convolutions before attention (A) and before the feed-forward (C)."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.components.attention.convolution import CausalConvolution
from minigpt.contracts import Attention, AttentionSpec, Context, Dims, FeedForward, FeedForwardSpec, State, substate
from minigpt.registry import register

Width = Annotated[int, Field(ge=2, le=64)]


@register("attention", "canon")
class CanonAttention(Attention):
    """attention(x + conv(x)), a convolution of each channel over the last tokens (Canon-A: arXiv:2512.17351).

    Args:
        width: Tokens in the convolution, the token itself included.
        attention: The inner token mixer.
    """

    uses = frozenset({"rotate", "bias"})

    def __init__(self, dims: Dims, *, width: Width = 4, attention: AttentionSpec = "mha"):  # type: ignore[assignment]
        super().__init__()
        self.convolution = CausalConvolution(dims.d_model, width)
        self.inner = attention.build(dims)
        self.uses = self.inner.uses - {"segments"}  # the convolution looks across them
        self.reach = None if self.inner.reach is None else self.inner.reach + width - 1

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        mixed: Tensor = self.inner(x + self.convolution(x, substate(state, "convolution")), ctx, substate(state, "inner"))
        return mixed


@register("ffn", "canon")
class CanonFeedForward(FeedForward):
    """ffn(x + conv(x)), a convolution of each channel over the last tokens (Canon-C: arXiv:2512.17351).

    Args:
        width: Tokens in the convolution, the token itself included.
        ffn: The inner feed-forward.
    """

    def __init__(self, dims: Dims, *, width: Width = 4, ffn: FeedForwardSpec = "mlp"):  # type: ignore[assignment]
        super().__init__()
        self.convolution = CausalConvolution(dims.d_model, width)
        self.inner = ffn.build(dims)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        mixed: Tensor = self.inner(x + self.convolution(x, substate(state, "convolution")), ctx, substate(state, "inner"))
        return mixed
