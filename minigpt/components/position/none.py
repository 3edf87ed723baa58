"""No positions at all."""

from __future__ import annotations

from minigpt.contracts import Dims, Position
from minigpt.registry import register


@register("position", "none")
class NoPosition(Position):
    """No position: only the causal mask depends on the order (NoPE: Kazemnejad et al. 2023, arXiv:2305.19466)."""

    def __init__(self, dims: Dims):
        super().__init__()
