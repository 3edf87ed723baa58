"""muP: settings that hold for models of any width."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import nn

from minigpt.contracts import INIT_STD, Dims, Factors, Init, NamedParameter, ResidualLinear
from minigpt.registry import register


@register("init", "mup")
class MuP(Init):
    """Maximal update parametrisation for optimizers that are `adaptive`, as Adam is (Yang et al. 2022, arXiv:2203.03466).

    With m = d_model / base_width, inside the blocks: weights std/sqrt(m), learning rate 1/m, weight decay m (a decay of the
    same size in each update). Logits 1/m, attention scores 1/head_dim in place of 1/sqrt(head_dim), both equal to the usual
    ones at base_width. Embeddings, biases and gains are as usual. So at base_width it is the usual model, and a learning
    rate found there holds at other widths, with n_heads or head_dim growing.

    Args:
        base_width: The d_model at which nothing changes.
        base_head_dim: The head_dim at which attention scores do not change.
        std: Deviation at base_width, divided by sqrt(2 n_layers) for maps that write to the residual stream.
    """

    transfers = frozenset({"width"})
    needs_adaptive = True

    def __init__(
        self,
        dims: Dims,
        *,
        base_width: Annotated[int, Field(gt=0)] = 128,
        base_head_dim: Annotated[int, Field(gt=0)] = 32,
        std: Annotated[float, Field(gt=0)] = INIT_STD,
    ):
        self.width = dims.d_model / base_width
        self.score_factor = math.sqrt(base_head_dim / dims.head_dim)
        self.logit_factor = 1 / self.width
        self.matrix_std = std / math.sqrt(self.width)
        self.residual_std = self.matrix_std / math.sqrt(2 * dims.n_layers)
        self.table_std = std

    def draw(self, model: nn.Module) -> None:
        ends = [part for name in ("embedding", "head") if isinstance(part := getattr(model, name, None), nn.Module)]
        outside = {module for part in ends for module in part.modules()}
        for module in model.modules():
            if isinstance(module, nn.Linear):
                inside = self.residual_std if isinstance(module, ResidualLinear) else self.matrix_std
                nn.init.normal_(module.weight, std=self.table_std if module in outside else inside)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.table_std)

    def factors(self, parameter: NamedParameter) -> Factors:
        return Factors(lr=1 / self.width, weight_decay=self.width) if is_inside(parameter) else Factors()


def is_inside(parameter: NamedParameter) -> bool:
    """Whether it is a matrix of a layer, or of an objective's layer: its inputs are as many as the model is wide."""
    return parameter.role == "matrix" and (parameter.layer is not None or parameter.name.startswith("objective."))
