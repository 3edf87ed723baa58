"""Multi-head attention."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from minigpt.components.attention.softmax import SoftmaxAttention
from minigpt.contracts import Dims, NormSpec
from minigpt.registry import register


@register("attention", "mha")
class MultiHeadAttention(SoftmaxAttention):
    """Causal multi-head attention, a key/value head for every query head (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        bias: Biases in the projections.
        dropout: Rate on the attention weights, apart from the model's own dropout.
        window: A token sees itself and window - 1 before it (Beltagy et al. 2020, arXiv:2004.05150); null for all.
        qk_norm: Norm on each query and key head (Henry et al. 2020, arXiv:2010.04245); null for none.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        bias: bool = True,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        window: Annotated[int, Field(gt=0)] | None = None,
        qk_norm: NormSpec | None = None,
    ):
        super().__init__(dims, n_kv_heads=dims.n_heads, bias=bias, dropout=dropout, window=window, qk_norm=qk_norm)
