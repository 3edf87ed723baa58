"""GPT-2's initialisation."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import nn

from minigpt.contracts import INIT_STD, Dims, Init, ResidualLinear
from minigpt.registry import register


@register("init", "gpt2")
class GPT2(Init):
    """Normal weights with one deviation, divided by sqrt(2 n_layers) for maps that write to the residual stream.

    Biases are zero (Radford et al. 2019, section 2.3).

    Args:
        std: The deviation.
    """

    def __init__(self, dims: Dims, *, std: Annotated[float, Field(gt=0)] = INIT_STD):
        self.matrix_std, self.residual_std = std, std / math.sqrt(2 * dims.n_layers)

    def draw(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                residual = isinstance(module, ResidualLinear)
                nn.init.normal_(module.weight, std=self.residual_std if residual else self.matrix_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.matrix_std)
