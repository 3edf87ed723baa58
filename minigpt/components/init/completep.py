"""CompleteP: settings that hold for models of any width and depth."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from minigpt.components.init.mup import MuP, is_inside
from minigpt.contracts import INIT_STD, Dims, Factors, NamedParameter
from minigpt.registry import register


@register("init", "completep")
class CompleteP(MuP):
    """muP for depth too: every sub-layer's output is divided by n_layers / base_layers (Dey et al. 2025, arXiv:2505.01618).

    As in the paper, all weights inside the blocks have the same deviation, and Adam's eps inside the blocks is divided by
    the ratios of width and depth, outside by the ratio of width.

    Args:
        base_width: The d_model at which nothing changes.
        base_head_dim: The head_dim at which attention scores do not change.
        base_layers: The n_layers at which outputs of sub-layers do not change.
        std: Deviation at base_width.
    """

    transfers = frozenset({"width", "depth"})

    def __init__(
        self,
        dims: Dims,
        *,
        base_width: Annotated[int, Field(gt=0)] = 128,
        base_head_dim: Annotated[int, Field(gt=0)] = 32,
        base_layers: Annotated[int, Field(gt=0)] = 2,
        std: Annotated[float, Field(gt=0)] = INIT_STD,
    ):
        super().__init__(dims, base_width=base_width, base_head_dim=base_head_dim, std=std)
        self.depth = dims.n_layers / base_layers
        self.residual_factor = 1 / self.depth
        self.residual_std = self.matrix_std

    def factors(self, parameter: NamedParameter) -> Factors:
        if is_inside(parameter):
            return Factors(lr=1 / self.width, weight_decay=self.width, eps=1 / (self.width * self.depth))
        if parameter.layer is not None:
            return Factors(eps=1 / (self.width * self.depth))
        return Factors(eps=1 / self.width)
