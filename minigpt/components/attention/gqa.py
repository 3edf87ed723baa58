"""Grouped-query attention; with one key/value head, multi-query attention."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from minigpt.components.attention.softmax import SoftmaxAttention
from minigpt.contracts import Dims
from minigpt.registry import register


@register("attention", "gqa")
class GroupedQueryAttention(SoftmaxAttention):
    """Query heads share n_kv_heads key/value heads, so the cache is smaller (Ainslie et al. 2023, arXiv:2305.13245).

    With n_kv_heads = 1 it is multi-query attention (Shazeer 2019, arXiv:1911.02150).

    Args:
        n_kv_heads: Key/value heads; must divide n_heads.
    """

    uses = SoftmaxAttention.uses | {"segments"}

    def __init__(self, dims: Dims, *, n_kv_heads: Annotated[int, Field(gt=0)] = 2, **shared: Any):
        super().__init__(dims, _kv_heads=n_kv_heads, **shared)
