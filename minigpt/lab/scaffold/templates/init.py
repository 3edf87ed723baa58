"""my_part: how weights begin, and factors that follow from the model's size.

`draw` draws the weights of all linear maps and embeddings of a module; afterwards the
`init_weights` of every component runs. `factors` may change the learning rate, the
weight decay and eps of a parameter by its role and layer. `score_factor`,
`residual_factor` and `logit_factor` multiply attention scores, what sub-layers add to
the stream, and the input of the output map. Keyword-only arguments are its JSON
parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- every weight is drawn, finite, and the same for the same seed of torch;
- no size depends on the order in which modules are visited;
- factors are greater than 0 and depend on nothing but sizes, role and layer;
- its promise holds: `transfers`, the sizes ("width", "depth") with which the first
  updates change activations by the same amount. An empty set promises nothing;
- every keyword argument changes something.

Edit first: `_std`.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import nn

from minigpt.contracts import Dims, Factors, Init, NamedParameter, ResidualLinear
from minigpt.registry import register


@register("init", "my_part")
class MyPart(Init):
    """Deviations that keep sizes: gain / sqrt(inputs) in linear maps, biases zero.

    Maps that write to the stream are divided by sqrt(2 n_layers).

    Args:
        gain: Size of a map's output, for inputs of size 1.
        table_std: Deviation of embeddings.
        table_lr: Factor on the learning rate of embeddings.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        gain: Annotated[float, Field(gt=0)] = 0.5,
        table_std: Annotated[float, Field(gt=0)] = 0.02,
        table_lr: Annotated[float, Field(gt=0)] = 1.0,
    ):
        self.gain, self.table_std, self.table_lr = gain, table_std, table_lr
        self.n_layers = dims.n_layers
        self.matrix_std = gain / math.sqrt(dims.d_model)  # of experts, which draw their own matrices
        self.residual_std = self.matrix_std / math.sqrt(2 * dims.n_layers)

    def draw(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self._std(module))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.table_std)

    def _std(self, linear: nn.Linear) -> float:
        std = self.gain / math.sqrt(linear.in_features)
        return std / math.sqrt(2 * self.n_layers) if isinstance(linear, ResidualLinear) else std

    def factors(self, parameter: NamedParameter) -> Factors:
        return Factors(lr=self.table_lr if parameter.role == "embedding" else 1.0)
