"""The time mixing of RWKV-7."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, InnerLinear, ResidualLinear, State
from minigpt.kernels.fused import upcast
from minigpt.kernels.recurrence import new_matrix, recur
from minigpt.registry import register

_LEAST_LOG_DECAY = -math.exp(-0.5)
_MIX_POWERS = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)  # as published, for the initial lerps of r, w, k, v, a, g

Rank = Annotated[int, Field(gt=0, le=1 << 17)] | None


class LowRank(nn.Module):
    """W_2 f(W_1 x) + b, from d_model to the width of all heads.

    Args:
        dims: Sizes of the model.
        rank: Width between the two maps.
        between: f; None for the identity.
        bias: Whether to add b.
    """

    def __init__(self, dims: Dims, rank: int, between: Callable[[Tensor], Tensor] | None = None, *, bias: bool = True):
        super().__init__()
        self.down = InnerLinear(dims.d_model, rank, bias=False)  # reads the shifted input; it starts at zero
        self.up = InnerLinear(rank, dims.n_heads * dims.head_dim, bias=bias)
        self.between = between

    def forward(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time width"]:
        """Both maps in a row."""
        x = self.down(x)
        return self.up(x if self.between is None else self.between(x))


@register("attention", "rwkv7")
class RWKV7(Attention):
    """A matrix with a decay for each channel that erases along one key and writes along another (arXiv:2503.14456).

    x^j_t = x_t + m_j (x_(t-1) - x_t) for j in r, w, k, v, a, g: the inputs of the following
    d = exp(-e^(-1/2) sigmoid(W_2 tanh(W_1 x^w) + b));  a = sigmoid(A_2 A_1 x^a + b);  g = G_2 sigmoid(G_1 x^g)
    v = W_v x^v, in all but the first such layer interpolated to the first one's v by sigmoid(V_2 V_1 x^v + b)
    k' = unit(k c) for each head with k = W_k x^k;  k" = k (1 + (a - 1) e)
    S_t = diag(d_t) S_(t-1) - (a_t k'_t) (k'_t^T S_(t-1)) + k"_t v_t^T
    y = W_out (g (group_norm(S^T r) + (r . u k") v)) with r = W_r x^r

    Peng et al. 2025. Ranks and initial weights are those of the authors' training code (RWKV-LM, RWKV-v7/train_temp), except
    W_out: there it starts at zero, here like the output map of every mixer. A null rank is computed from d_model as in that
    code, in multiples of 32, at least 32. Three things of that code are missing here: twice the learning rate for the
    decay's b, no weight decay on low-rank maps, and a channel mixing after this layer that also reads the previous token.

    Args:
        decay_rank: Rank of W_2 W_1; null for about 2.5 sqrt(d_model).
        rate_rank: Rank of A_2 A_1, the rate of learning in context; null for about 2.5 sqrt(d_model).
        value_rank: Rank of V_2 V_1; null for about 1.7 sqrt(d_model).
        gate_rank: Rank of the gate; null for about 5 sqrt(d_model).
    """

    elementwise = frozenset({"mix", "bonus"})

    def __init__(
        self,
        dims: Dims,
        *,
        decay_rank: Rank = None,
        rate_rank: Rank = None,
        value_rank: Rank = None,
        gate_rank: Rank = None,
    ):
        if dims.head_dim < 2:
            raise ValueError("head_dim 1: the norm of a single number is always 0; give heads a width of 2 or more")
        super().__init__()
        self.n_heads, self.head_dim = dims.n_heads, dims.head_dim
        self.depth, self.n_layers = dims.layer, dims.n_layers
        root, width = math.sqrt(dims.d_model), dims.n_heads * dims.head_dim
        self.mix = nn.Parameter(torch.empty(6, dims.d_model))
        self.r, self.k, self.v = (nn.Linear(dims.d_model, width, bias=False) for _ in range(3))
        self.decay = LowRank(dims, decay_rank or _rank(2.5 * root), torch.tanh)
        self.rate = LowRank(dims, rate_rank or _rank(2.5 * root))
        own_values = dims.occurrence == 0  # later layers mix in the values of this one
        self.value = None if own_values else LowRank(dims, value_rank or _rank(1.7 * root))
        self.gate = LowRank(dims, gate_rank or _rank(5 * root), torch.sigmoid, bias=False)
        self.unlearn_scale = nn.Parameter(torch.empty(width))
        self.rate_scale = nn.Parameter(torch.empty(width))
        self.bonus = nn.Parameter(torch.empty(dims.n_heads, dims.head_dim))
        self.norm_weight = nn.Parameter(torch.empty(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.out = ResidualLinear(width, dims.d_model, bias=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """As in the authors' training code, except the output map, which starts as in every mixer."""
        width, d_model = self.r.weight.shape
        later = self.depth / max(self.n_layers - 1, 1)  # 0 in the first layer, 1 in the last
        places = torch.arange(d_model, device=self.mix.device) / d_model
        for row, power in zip(self.mix, _MIX_POWERS, strict=True):
            row.copy_(1 - places ** (power * (1 - self.depth / self.n_layers)))
        for layer, gain in ((self.r, 1.0), (self.k, 0.1), (self.v, 1.0)):
            nn.init.orthogonal_(layer.weight, gain=gain)
        for pair in (self.decay, self.rate, self.value, self.gate):
            if pair is not None:  # with the first map at zero, the output of the pair starts constant
                nn.init.zeros_(pair.down.weight)
                nn.init.orthogonal_(pair.up.weight, gain=0.1 * max(1.0, math.sqrt(pair.up.in_features / width)))
        ramp = torch.linspace(0, 1, width, device=self.mix.device)
        across = torch.linspace(-1, 1, self.head_dim, device=self.mix.device).repeat(self.n_heads)
        zigzag = across * across.abs()
        self.decay.up.bias.copy_(-5.5 + 6 * ramp ** (1 + later**0.3) + 2.5 * zigzag)
        self.rate.up.bias.copy_(-0.19 + 0.3 * zigzag + 0.4 * (ramp - 0.5))
        if self.value is not None:
            self.value.up.bias.copy_(0.73 - 0.4 * (ramp - 0.5))
        self.unlearn_scale.copy_(0.71 - 0.1 * (ramp - 0.5))
        self.rate_scale.fill_(1.02)
        self.bonus.fill_(-0.04)
        self.norm_weight.fill_(((self.depth + 1) / self.n_layers) ** 0.7)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        for_r, for_w, for_k, for_v, for_a, for_g = self.shifted(x, state)
        r, k, v = self.r(for_r), self.k(for_k), self.v(for_v)
        first = ctx.shared.setdefault("values of rwkv7", v)
        if self.value is not None:
            v = v + (first - v) * self.value(for_v).sigmoid()
        log_decay = _LEAST_LOG_DECAY * upcast(self.decay(for_w)).sigmoid()
        rate = upcast(self.rate(for_a)).sigmoid()
        unlearned = F.normalize(self.heads(upcast(k) * self.unlearn_scale), dim=-1)
        learned = k * (1 + (rate - 1) * self.rate_scale)
        r, learned, v = self.heads(r), self.heads(learned), self.heads(v)
        y = recur(
            state,
            r,
            learned,
            v,
            log_decay=self.heads(log_decay),
            correction=(unlearned, -self.heads(rate) * unlearned),
            least_log_decay=_LEAST_LOG_DECAY,
        )
        y = self.normed(y) + self.merged((r * learned * self.bonus[:, None]).sum(-1, keepdim=True) * v)
        return self.out((y * self.gate(for_g)).to(x.dtype))

    def shifted(self, x: Float[Tensor, "batch time d_model"], state: State | None) -> tuple[Tensor, ...]:
        """Each token mixed with the previous one, in six proportions."""
        last = torch.zeros_like(x[:, :1]) if state is None else state.tensors["last"].to(x.dtype)
        if state is not None:
            state.tensors["last"] = x[:, -1:].to(state.tensors["last"].dtype)
        change = torch.cat((last, x[:, :-1]), 1) - x
        return tuple(x + change * share for share in self.mix.to(x.dtype))

    def heads(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch heads time head_dim"]:
        """Split into heads of equal width."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)

    def merged(self, x: Float[Tensor, "batch heads time head_dim"]) -> Float[Tensor, "batch time width"]:
        """Concatenate all heads."""
        return x.transpose(1, 2).flatten(2)

    def normed(self, y: Float[Tensor, "batch heads time head_dim"]) -> Float[Tensor, "batch time width"]:
        """Normalise each head to mean 0 and variance 1, then gain and bias; eps is 64e-5 for width 64, as published."""
        y = F.layer_norm(upcast(y), (self.head_dim,), eps=1e-5 * self.head_dim)
        return self.merged(y) * self.norm_weight + self.norm_bias

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = new_matrix(batch, self.n_heads, self.head_dim, self.head_dim, device, dtype)
        state.tensors["last"] = torch.zeros(batch, 1, self.mix.shape[1], device=device, dtype=dtype)
        return state


def _rank(suggested: float) -> int:
    return max(32, 32 * round(suggested / 32))
