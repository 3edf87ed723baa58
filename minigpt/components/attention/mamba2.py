"""Mamba-2."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.convolution import CausalConvolution
from minigpt.components.attention.recurrent import PUBLISHED_NORM
from minigpt.contracts import Attention, Context, Dims, NormSpec, ResidualLinear, State, substate
from minigpt.kernels.fused import upcast
from minigpt.kernels.recurrence import new_matrix, recur
from minigpt.registry import register


class StepDecay(nn.Module):
    """Step size and decay of each head at each token: dt = softplus(x + c), log d = -exp(A) dt.

    As published, exp(A) starts uniform in 1 to 16 (Gated DeltaNet: in 0 to 16), dt log-uniform in 0.001 to 0.1 where x is 0.

    Args:
        heads: Number of heads.
        least: Lower end of the initial exp(A).
    """

    def __init__(self, heads: int, least: float = 1.0):
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(least, 16).clamp(min=1e-6).log())
        dt = torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt

    def forward(
        self, x: Float[Tensor, "batch time heads"]
    ) -> tuple[Float[Tensor, "batch time heads"], Float[Tensor, "batch time heads"]]:
        """Dt and log d, in fp32."""
        dt = F.softplus(upcast(x) + upcast(self.dt_bias))
        return dt, -upcast(self.A_log).exp() * dt


@register("attention", "mamba2")
class Mamba2(Attention):
    """A selective state space with one decay per head (Dao & Gu 2024, arXiv:2405.21060, section 7).

    z, xBC, dt = split(W_in u);  x, B, C = split(silu(conv(xBC)));  S_t = d_t S_(t-1) + dt_t B_t x_t^T, for each head
    y = W_out norm((S^T C + D x) * silu(z));  the heads share B and C; StepDecay defines dt and d

    Heads have width head_dim; their number follows from `expand`, not from n_heads. The norm's eps is the authors' 1e-5. The
    bias of the authors' convolution starts random, here it starts at zero.

    Args:
        expand: Width of x and z, as a multiple of d_model; head_dim must divide it.
        d_state: Width of B and C (the paper uses 128, for larger models).
        conv_width: Tokens in the convolution; 1 for no convolution.
        norm: Norm over all heads together, after the gate.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expand: Annotated[float, Field(gt=0, le=64)] = 2.0,
        d_state: Annotated[int, Field(gt=0, le=1 << 17)] = 64,
        conv_width: Annotated[int, Field(gt=0, le=64)] = 4,
        norm: NormSpec = PUBLISHED_NORM,
    ):
        super().__init__()
        width = expand * dims.d_model
        if width < 1 or width % dims.head_dim:
            raise ValueError(
                f"expand {expand:g} times d_model {dims.d_model} is {width:g}; head_dim {dims.head_dim} must divide it"
            )
        self.width, self.d_state, self.head_dim = int(width), d_state, dims.head_dim
        self.n_heads = self.width // dims.head_dim
        convolved = self.width + 2 * d_state
        self.into = nn.Linear(dims.d_model, self.width + convolved + self.n_heads, bias=False)
        self.convolution = CausalConvolution(convolved, conv_width, bias=True) if conv_width > 1 else None
        self.decay = StepDecay(self.n_heads)
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = norm.build(self.width)
        self.out = ResidualLinear(self.width, dims.d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        z, inner, dt = self.into(x).split((self.width, self.width + 2 * self.d_state, self.n_heads), -1)
        if self.convolution is not None:
            inner = self.convolution(inner, substate(state, "convolution"))
        inner, b, c = torch.split(F.silu(inner), [self.width, self.d_state, self.d_state], -1)
        v = inner.view(*x.shape[:2], self.n_heads, self.head_dim).transpose(1, 2)
        dt, log_decay = (each.mT[..., None] for each in self.decay(dt))  # [B, H, T, 1]
        q = c[:, None].expand(-1, self.n_heads, -1, -1)
        y = recur(state, q, dt * b[:, None], v, log_decay=log_decay) + self.D.to(v.dtype)[:, None, None] * v
        return self.out(self.norm(y.transpose(1, 2).flatten(2) * F.silu(z)))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype) or State()
        state.tensors |= new_matrix(batch, self.n_heads, self.d_state, self.head_dim, device, dtype).tensors
        return state
