"""Learning rates by layer: an example plugin, an initialisation that wraps another one.

Use it by naming this file in an experiment's "plugins" (see experiments/layer_decay.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/layer_decay.py --set model.init=layer_decay
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from torch import nn

from minigpt.contracts import Dims, Factors, Init, InitSpec, NamedParameter
from minigpt.registry import register


@register("init", "layer_decay")
class LayerDecay(Init):
    """Learning rates that fall from the output to the input (Howard & Ruder 2018, arXiv:1801.06146, discriminative rates).

    Factor decay^(n_layers - l) in layer l = 0, 1, ..., decay^(n_layers + 1) for the embedding, 1 above the last layer: the
    form of ELECTRA (arXiv:2003.10555). A tied table has the rate of the embedding. Weights begin as the inner
    initialisation says, and its factors are multiplied by these.

    Args:
        init: The inner initialisation.
        decay: Rate of a layer as a share of the rate of the layer above it. Above 1, lower layers learn faster.
    """

    def __init__(
        self, dims: Dims, *, init: InitSpec = "gpt2", decay: Annotated[float, Field(gt=0, le=10, examples=[0.5])] = 0.9
    ):
        self.inner, self.decay, self.n_layers = init.build(dims), decay, dims.n_layers
        self.needs_adaptive = self.inner.needs_adaptive
        self.matrix_std, self.residual_std = self.inner.matrix_std, self.inner.residual_std
        self.score_factor = self.inner.score_factor
        self.residual_factor = self.inner.residual_factor
        self.logit_factor = self.inner.logit_factor

    def draw(self, model: nn.Module) -> None:
        self.inner.draw(model)

    def factors(self, parameter: NamedParameter) -> Factors:
        inner = self.inner.factors(parameter)
        if parameter.layer is not None:
            below = self.n_layers - parameter.layer
        else:
            below = self.n_layers + 1 if parameter.role == "embedding" else 0
        return replace(inner, lr=inner.lr * self.decay**below)
