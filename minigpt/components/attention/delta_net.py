"""DeltaNet."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.convolution import CausalConvolution
from minigpt.components.attention.recurrent import PUBLISHED_NORM, Expansion, RecurrentAttention
from minigpt.contracts import Context, Dims, NormSpec, State, substate
from minigpt.kernels.fused import upcast
from minigpt.kernels.recurrence import recur
from minigpt.registry import register


@register("attention", "delta_net")
class DeltaNet(RecurrentAttention):
    """The delta rule: a key's new value partly replaces its old one (Yang et al. 2024, arXiv:2406.06484).

    S_t = (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T;  b_t = sigmoid(w_h x_t);  q, k, v = silu(conv(W_qkv x))

    q and k are normalised to length 1, as x / sqrt(|x|^2 + 1e-6). As in the authors' layer (flash-linear-attention), q is
    then scaled by K^-1/2, and the norm's eps is 1e-5. This eps matters because outputs are small: with d_model 128 and heads
    of 64 the rms after the norm starts at 0.77, and at 0.43 in gated_delta_net. The authors' configurations of whole models
    differ from their layer: eps 1e-6, and convolutions initialised with deviation 0.02 (here torch's default).

    Args:
        expand_v: Width of a head's values, as a multiple of head_dim.
        conv_width: Tokens in the convolution of queries, keys and values; 1 for no convolution.
        negative_eigenvalues: b_t goes up to 2 instead of 1, so that stored values can change sign; tracking a state needs
            this (Grazzi et al. 2024, arXiv:2411.12537).
        output_gate: A swish gate from the input on the normalised output.
        norm: Norm of each head's output.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expand_v: Expansion = 1.0,
        conv_width: Annotated[int, Field(gt=0, le=64)] = 4,
        negative_eigenvalues: bool = False,
        output_gate: bool = False,
        norm: NormSpec = PUBLISHED_NORM,
    ):
        super().__init__(dims, expand_v=expand_v, norm=norm, _gate=output_gate)
        self.convolution = CausalConvolution(self.qkv.out_features, conv_width) if conv_width > 1 else None
        self.beta = nn.Linear(dims.d_model, dims.n_heads, bias=False)
        self.largest_beta = 2.0 if negative_eigenvalues else 1.0

    def log_decay(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch heads time 1"] | None:
        """Log of the factor on the whole matrix before each token; None for no decay."""
        return None

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        projected = self.qkv(x)
        if self.convolution is not None:
            projected = self.convolution(projected, substate(state, "convolution"))
        q, k, v = self.queries_keys_values(F.silu(projected))
        q, k = _of_length_1(q) * self.key_dim**-0.5, _of_length_1(k)
        beta = self.largest_beta * upcast(self.heads(self.beta(x))).sigmoid()
        log_decay = self.log_decay(x)
        erased = beta if log_decay is None else beta * log_decay.exp()  # the matrix decays before it is erased
        return self.finish(recur(state, q, beta * k, v, log_decay=log_decay, correction=(k, -erased * k)), x)


def _of_length_1(x: Tensor) -> Tensor:
    """Normalise to length 1, in fp32: a key of length above 1 makes the stored values grow."""
    x = upcast(x)
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
