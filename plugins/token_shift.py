"""RWKV-4's channel mixing: an example plugin, a feed-forward whose state is the previous token.

Use it by naming this file in an experiment's "plugins" (see experiments/token_shift.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/token_shift.py --set model.ffn=token_shift
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from minigpt.kernels.fused import squared_relu
from minigpt.registry import register


@register("ffn", "token_shift")
class TokenShift(FeedForward):
    """Each channel reads its own mix of a token and the previous one (Peng et al. 2023, arXiv:2305.13048).

    y_t = sigmoid(W_r r_t) * W_v relu(W_k k_t)^2
    r_t = mu_r x_t + (1 - mu_r) x_(t-1),  k_t = mu_k x_t + (1 - mu_k) x_(t-1),  x_(-1) = 0

    The shares mu of a layer start from 0 in the first channel to near 1 in the last; they are closer to 1 in later layers.

    Args:
        expansion: Hidden width as a multiple of d_model.
        receptance: Whether to apply the gate sigmoid(W_r r_t); RWKV-7 does not (arXiv:2503.14456).
    """

    def __init__(self, dims: Dims, *, expansion: Annotated[float, Field(gt=0, le=64)] = 4.0, receptance: bool = True):
        super().__init__()
        hidden = max(1, round(expansion * dims.d_model))
        share = (torch.arange(dims.d_model) / dims.d_model) ** (1 - dims.layer / dims.n_layers)
        self.key_share = nn.Parameter(share)
        self.key = nn.Linear(dims.d_model, hidden, bias=False)
        self.value = ResidualLinear(hidden, dims.d_model, bias=False)
        self.receptance_share = nn.Parameter(share.clone()) if receptance else None
        self.receptance = nn.Linear(dims.d_model, dims.d_model, bias=False) if receptance else None

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        first = torch.zeros_like(x[:, :1]) if state is None else state.tensors["last"].to(x.dtype)
        before = torch.cat((first, x[:, :-1]), 1)
        if state is not None:
            state.tensors["last"].copy_(x[:, -1:])
        y = self.value(squared_relu(self.key(torch.lerp(before, x, self.key_share.to(x.dtype)))))
        if self.receptance is None or self.receptance_share is None:
            return y
        return torch.sigmoid(self.receptance(torch.lerp(before, x, self.receptance_share.to(x.dtype)))) * y

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return State({"last": torch.zeros(batch, 1, len(self.key_share), device=device, dtype=dtype)})
