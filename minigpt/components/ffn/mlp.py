"""The two-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from minigpt.kernels.fused import squared_relu
from minigpt.registry import register

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": squared_relu,
    "silu": F.silu,
}


@register("ffn", "mlp")
class MLP(FeedForward):
    """W_out f(W_in x), for each position separately (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        expansion: Hidden width as a multiple of d_model.
        activation: f: gelu (Hendrycks & Gimpel 2016, arXiv:1606.08415; gelu_tanh is its approximation in GPT-2), relu, relu2
            (squared; So et al. 2021, arXiv:2109.08668) or silu (arXiv:1702.03118).
        bias: Biases in both layers.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expansion: Annotated[float, Field(gt=0, le=64)] = 4.0,
        activation: Activation = "gelu",
        bias: bool = True,
    ):
        super().__init__()
        hidden = max(1, round(expansion * dims.d_model))
        self.activation = ACTIVATIONS[activation]
        self.into = nn.Linear(dims.d_model, hidden, bias=bias)
        self.out = ResidualLinear(hidden, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        return self.out(self.activation(self.into(x)))
