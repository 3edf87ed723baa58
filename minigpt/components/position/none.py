"""No positions at all."""

from __future__ import annotations

from minigpt.contracts import Dims, Position
from minigpt.registry import register


@register("position", "none")
class NoPosition(Position):
    """Nothing is added: the causal mask alone tells order (NoPE: Kazemnejad et al. 2023, arXiv:2305.19466)."""

    def __init__(self, dims: Dims):
        super().__init__()
