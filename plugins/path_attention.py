"""PaTH attention: an example plugin, whose cached keys change with every later token.

Use it by naming this file in an experiment's "plugins" (see experiments/path_attention.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/path_attention.py --set model.attention=path_attention \
        --set model.position=none
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, ResidualLinear, State
from minigpt.kernels import new_cache, remember, visible
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("attention", "path_attention")
class PathAttention(Attention):
    """Positions are products of reflections that depend on the tokens in between (PaTH: Yang et al. 2025, arXiv:2505.16381).

    score(i, j) = k_j^T H_(j+1) ... H_i q_i / sqrt(K);  H_s = I - b_s w_s w_s^T;  b_s = 2 sigmoid(u x_s), w_s = unit(W x_s)

    The products are never formed. A key changes with each token, k <- H_s k = k - w_s c_s with c_s = b_s w_s^T k. The c of
    a whole chunk are the solution of one triangular system, and score(i, j) = q_i k_j - sum over s <= i of q_i w_s c_sj.
    The system takes time^2 * source operations; the paper's kernel works in blocks. The paper also has a short convolution
    before unit().

    Args:
        bias: Biases in the projections.
    """

    uses = frozenset({"score_factor"})

    def __init__(self, dims: Dims, *, bias: bool = False):
        super().__init__()
        self.n_heads, self.head_dim, self.score_factor = dims.n_heads, dims.head_dim, dims.score_factor
        width = dims.n_heads * dims.head_dim
        self.qkvw = nn.Linear(dims.d_model, 4 * width, bias=bias)
        self.strength = nn.Linear(dims.d_model, dims.n_heads)
        self.out = ResidualLinear(width, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        batch, time, _ = x.shape
        heads = self.qkvw(x).view(batch, time, 4 * self.n_heads, self.head_dim).transpose(1, 2)
        q, k, v, w = heads.chunk(4, 1)
        (k, v), k_positions = remember(state, (k, v), ctx.positions)
        if state is not None:
            k = k.clone()  # the cache is changed below, and gradients need the keys as they were read
        with torch.autocast(x.device.type, enabled=False):
            q, k, w = (upcast(part) for part in (q, k, F.normalize(w, dim=-1)))
            b = 2 * upcast(self.strength(x)).sigmoid().transpose(1, 2)[..., None]  # [B, H, T, 1]
            # c_s = b_s w_s^T (k - sum over r < s of w_r c_r), for tokens s after key j only: (I + b tril(w w^T)) c = b w k^T
            after = ctx.positions[:, None] > k_positions[None, :]
            known = b * (w @ k.mT).masked_fill(~after, 0.0)
            c = torch.linalg.solve_triangular(
                (b * (w @ w.mT)).tril(-1), known, upper=False, unitriangular=True
            )  # [.., T, S]
            scores = (q @ k.mT - (q @ w.mT).tril() @ c) * (self.score_factor * self.head_dim**-0.5)
            if state is not None:  # the keys as the next token finds them
                state.tensors["0"][:, :, : k.shape[2]] = k - c.mT @ w
        weights = scores.masked_fill(~visible(ctx.positions, k_positions), -torch.inf).softmax(-1)
        return self.out((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        cache = new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, None, device, dtype)
        cache.complete = False  # earlier keys depend on later tokens, so dropping the last entries does not undo a token
        return cache
