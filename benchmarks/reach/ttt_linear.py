"""TTT-Linear, as a plugin: the state is a linear model, and each token is a step of its training."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, ResidualLinear, State
from minigpt.kernels.fused import upcast, wide_dtype
from minigpt.registry import register


@register("attention", "ttt_linear")
class TTTLinear(Attention):
    """y_t = f(q_t; W_t), f(x; W) = x + norm(x W), W_t trained to map keys to values (Sun et al. 2024, arXiv:2407.04620).

    W_t = W_(t') - sum over t' < s <= t of eta_s dL_s/dW at W_(t');  L_s = |f(k_s; W) - v_s|^2 / 2

    t' is the start of a batch of tokens: its gradients are all taken there, so that they are matrix products. W_0 is
    trained; so are the norm's gain and bias for each head. eta_s = rate sigmoid(u x_s) / head_dim. The rotation, gate and
    convolution of the authors' layer are left out.

    Args:
        batch: Tokens in a batch of the inner training.
        rate: Largest inner learning rate.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        batch: Annotated[int, Field(ge=1, le=4096)] = 16,
        rate: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__()
        self.batch, self.rate, self.n_heads, self.head_dim = batch, rate, dims.n_heads, dims.head_dim
        self.qkv = nn.Linear(dims.d_model, 3 * dims.n_heads * dims.head_dim, bias=False)
        self.learning_rate = nn.Linear(dims.d_model, dims.n_heads)
        self.first = nn.Parameter(torch.empty(dims.n_heads, dims.head_dim, dims.head_dim).normal_(std=0.02))
        self.gain = nn.Parameter(torch.ones(dims.n_heads, 1, dims.head_dim))
        self.bias = nn.Parameter(torch.zeros(dims.n_heads, 1, dims.head_dim))
        self.out = ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        offset = 0 if state is None else int(ctx.positions[0]) % self.batch  # tokens of an unfinished batch
        heads = upcast(self.qkv(x)).unflatten(-1, (3 * self.n_heads, self.head_dim)).transpose(1, 2)
        eta = upcast(self.learning_rate(x)).sigmoid().transpose(1, 2)[..., None] * (self.rate / self.head_dim)
        with torch.autocast(x.device.type, enabled=False):
            if state is None or int(ctx.positions[0]) == 0:
                weight = self.first.to(heads.dtype).expand(len(x), -1, -1, -1)
                change = torch.zeros_like(weight)
            else:
                weight, change = (state.tensors[name].to(heads.dtype) for name in ("weight", "change"))
            pieces, start = [], 0
            while start < x.shape[1]:
                end = min(x.shape[1], start + self.batch - offset)
                q, k, v = heads[:, :, start:end].chunk(3, 1)
                piece, change = self._piece(q, k, v, eta[:, :, start:end], weight, change)
                pieces.append(piece)
                offset = (offset + end - start) % self.batch
                if offset == 0:
                    weight, change = weight - change, torch.zeros_like(change)
                start = end
        if state is not None:
            state.tensors |= {"weight": weight, "change": change}
        return self.out(torch.cat(pieces, 2).transpose(1, 2).flatten(2).to(x.dtype))

    def _piece(self, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, weight: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of tokens of one batch, and the sum of its steps so far."""
        inner = k @ weight
        spread = (inner.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        unit = (inner - inner.mean(-1, keepdim=True)) / spread
        gradient = (k + unit * self.gain + self.bias - v) * self.gain  # with respect to unit; then to k W:
        along = (gradient * unit).mean(-1, keepdim=True)
        steps = eta * (gradient - gradient.mean(-1, keepdim=True) - unit * along) / spread
        read = q @ (weight - change) - (q @ k.mT).tril() @ steps
        return q + F.layer_norm(read, read.shape[-1:], eps=1e-6) * self.gain + self.bias, change + k.mT @ steps

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        zeros = torch.zeros(batch, self.n_heads, self.head_dim, self.head_dim, device=device, dtype=wide_dtype(dtype))
        return State({"weight": zeros, "change": zeros.clone()})
