"""Multi-head attention."""

from __future__ import annotations

from minigpt.components.attention.softmax import SoftmaxAttention
from minigpt.registry import register


@register("attention", "mha")
class MultiHeadAttention(SoftmaxAttention):
    """Causal multi-head attention, a key/value head for every query head (Vaswani et al. 2017, arXiv:1706.03762)."""

    uses = SoftmaxAttention.uses | {"segments"}
