"""Post-norm for very deep stacks."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Block, Component, Context, Dims, Layer, ResidualLinear, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


@register("block", "deepnorm")
class DeepNormBlock(Block):
    """norm(a x + attention(x)), then norm(a x + ffn(x)), a = (2N)^(1/4) for N layers (Wang et al. 2022, arXiv:2203.00555).

    Initial weights are Xavier-normal with gain b = (8N)^(-1/4): all matrices of the feed-forward, and the output map of
    attention (ResidualLinear). The paper does the same for the value projection, and uses gain 1 for q and k. A mixer does
    not declare which of its maps computes values. So these maps keep the model-wide 0.02, near b / sqrt(d_model) here.
    """

    final_norm = False

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.residual_weight = (2 * dims.n_layers) ** 0.25
        self.init_gain = (8 * dims.n_layers) ** -0.25
        self.attention = layer.attention.build(dims)
        self.attention_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.dropout = Dropout(dims.dropout)

    def init_weights(self) -> None:
        """Initialise with this gain instead of the model-wide deviation."""
        outputs = [module.weight for module in self.attention.modules() if isinstance(module, ResidualLinear)]
        for weight in [*outputs, *_matrices(self.ffn)]:
            fan_out, fan_in = weight.shape[-2:]  # tensors with more axes are stacks of matrices
            nn.init.normal_(weight, std=self.init_gain * (2 / (fan_in + fan_out)) ** 0.5)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        mixed = self.attention(x, ctx, substate(state, "attention"))
        x = self.attention_norm(self.residual_weight * x + self.dropout(mixed))
        return self.ffn_norm(self.residual_weight * x + self.dropout(self.ffn(x, ctx, substate(state, "ffn"))))


def _matrices(part: nn.Module) -> list[nn.Parameter]:
    """Linear maps, single or stacked: no embedding tables, no vectors, no parameters declared elementwise."""
    matrices = []
    for module in part.modules():
        elementwise = module.elementwise if isinstance(module, Component) else frozenset()
        if not isinstance(module, nn.Embedding):
            own = module.named_parameters(recurse=False)
            matrices += [parameter for name, parameter in own if parameter.ndim >= 2 and name not in elementwise]
    return matrices
