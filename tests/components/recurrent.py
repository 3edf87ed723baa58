"""Each recurrent mixer's formula from its paper, token by token in float64.

The references use only the weights of the modules, and neither `recurrence.py` nor any forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minigpt.contracts import Context, Dims
from minigpt.registry import REGISTRY
from tests.components.formulas import linear, turned

HEADS, WIDTH, D_MODEL = 3, 4, 12  # width: head_dim
DIMS = Dims(D_MODEL, n_layers=3, n_heads=HEADS, head_dim=WIDTH, block_size=160, vocab_size=9, dropout=0.0)
TIME = 70  # more than one chunk

EPS = 0.01  # of the norms: outputs near 0 would magnify rounding beyond the bounds of these tests
NORM = {"name": "rmsnorm", "eps": EPS}


def build(name: str, dims: Dims = DIMS, **params: Any) -> Any:
    torch.manual_seed(1)
    if name not in ("linear", "rwkv7"):
        params = {"norm": NORM, **params}
    module = REGISTRY.resolve("attention", {"name": name, **params}).build(dims)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def context(start: int, end: int, position: str = "none") -> Context:
    ids = torch.zeros(2, end - start, dtype=torch.long)
    return Context(torch.arange(start, end), REGISTRY.resolve("position", position).build(DIMS), ids)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def rms(x: Tensor, norm: Any) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.weight


def convolved(x: Tensor, convolution: Any) -> Tensor:
    if convolution is None:
        return x
    width = convolution.weight.shape[-1]
    rows = []
    for t in range(x.shape[1]):
        row = torch.zeros_like(x[:, 0]) if convolution.bias is None else convolution.bias
        for back in range(min(width, t + 1)):
            row = row + convolution.weight[:, 0, width - 1 - back] * x[:, t - back]
        rows.append(row)
    return torch.stack(rows, 1)


def split(x: Tensor, *widths: int) -> list[Tensor]:
    """Split a projection into HEADS heads of these widths: [B, T, heads, width] each."""
    return [
        part.unflatten(-1, (HEADS, width))
        for part, width in zip(x.split([HEADS * w for w in widths], -1), widths, strict=True)
    ]


def outer(k: Tensor, v: Tensor) -> Tensor:
    return k[..., :, None] * v[..., None, :]


def read(q: Tensor, matrix: Tensor) -> Tensor:
    return (q[..., :, None] * matrix).sum(-2)


def reference_linear(m: Any, x: Tensor, feature_map: str = "elu", norm: Any = None) -> Tensor:
    """Katharopoulos et al. 2020, equation 9, with explicit sums."""
    phi = {
        "elu": lambda x: torch.where(x > 0, x, torch.exp(x.clamp(max=0)) - 1) + 1,
        "relu": lambda x: x.clamp(min=0),
        "identity": lambda x: x,
    }[feature_map]
    q, k, v = split(linear(x, m.qkv), WIDTH, WIDTH, WIDTH)
    outputs = []
    for t in range(x.shape[1]):
        weights = (phi(q[:, t : t + 1]) * phi(k[:, : t + 1])).sum(-1, keepdim=True)
        total = (weights * v[:, : t + 1]).sum(1)
        outputs.append(rms(total, m.norm) if norm else total / (weights.sum(1) + 1e-6))
    return linear(torch.stack(outputs, 1).flatten(2), m.out)


def reference_retention(m: Any, x: Tensor, decays: str = "powers", expand_v: float = 2.0, position: str = "none") -> Tensor:
    """RetNet, equations 5 and 8, in the parallel form."""
    q, k, v = split(linear(x, m.qkv), WIDTH, WIDTH, round(expand_v * WIDTH))
    if position == "rope":
        places = torch.arange(x.shape[1])
        q, k = (turned(each.transpose(1, 2), places).transpose(1, 2) for each in (q, k))
    gamma = [1 - 2.0 ** (-5 - h) for h in range(HEADS)]
    if decays == "linspace":
        gamma = [
            1 - math.exp(math.log(1 / 32) + h / (HEADS - 1) * (math.log(1 / 512) - math.log(1 / 32))) for h in range(HEADS)
        ]
    kept = torch.tensor(gamma, dtype=torch.float64)
    outputs = []
    for t in range(x.shape[1]):
        total = torch.zeros_like(v[:, 0])
        for s in range(t + 1):
            score = (q[:, t] * k[:, s]).sum(-1) / math.sqrt(WIDTH) * kept ** (t - s)
            total = total + score[..., None] * v[:, s]
        outputs.append(rms(total, m.norm).flatten(1))
    return linear(silu(linear(x, m.gate)) * torch.stack(outputs, 1), m.out)


def reference_gla(
    m: Any, x: Tensor, expand_k: float = 0.5, expand_v: float = 1.0, temperature: float = 16.0, decay_rank: int = 16
) -> Tensor:
    """Yang et al. 2023, section 4: equation 3 and the layer of section 4.4."""
    key = round(expand_k * WIDTH)
    q, k, v = split(linear(x, m.qkv), key, key, round(expand_v * WIDTH))
    down, up = m.decay
    (alpha,) = split(sigmoid(linear(linear(x, down), up)) ** (1 / temperature), key)
    matrix = torch.zeros_like(outer(k[:, 0], v[:, 0]))
    outputs = []
    for t in range(x.shape[1]):
        matrix = alpha[:, t, :, :, None] * matrix + outer(k[:, t], v[:, t])
        outputs.append(rms(read(q[:, t] / math.sqrt(key), matrix), m.norm).flatten(1))
    return linear(silu(linear(x, m.gate)) * torch.stack(outputs, 1), m.out)


def reference_delta_net(m: Any, x: Tensor, alpha: Tensor | None = None, **params: Any) -> Tensor:
    """Yang et al. 2024a, equation 4: the value stored at a key is read, and partly replaced. With alpha: 2024b, equation 10.

    The queries are scaled as in the authors' code.
    """
    value = round(params.get("expand_v", 1.0) * WIDTH)
    q, k, v = split(silu(convolved(linear(x, m.qkv), m.convolution)), WIDTH, WIDTH, value)
    q, k = (each / (each.square().sum(-1, keepdim=True) + 1e-6).sqrt() for each in (q, k))
    beta = sigmoid(linear(x, m.beta)) * (2 if params.get("negative_eigenvalues") else 1)
    matrix = torch.zeros_like(outer(k[:, 0], v[:, 0]))
    outputs = []
    for t in range(x.shape[1]):
        if alpha is not None:
            matrix = alpha[:, t, :, None, None] * matrix
        old = read(k[:, t], matrix)
        new = beta[:, t, :, None] * v[:, t] + (1 - beta[:, t, :, None]) * old
        matrix = matrix - outer(k[:, t], old) + outer(k[:, t], new)
        outputs.append(rms(read(q[:, t] / math.sqrt(WIDTH), matrix), m.norm).flatten(1))
    y = torch.stack(outputs, 1)
    return linear(y if m.gate is None else y * silu(linear(x, m.gate)), m.out)


def reference_gated_delta_net(m: Any, x: Tensor, **params: Any) -> Tensor:
    dt = torch.log(1 + torch.exp(linear(x, m.step) + m.decay.dt_bias))
    return reference_delta_net(m, x, torch.exp(-torch.exp(m.decay.A_log) * dt), **{"expand_v": 2.0, **params})


def reference_mamba2(m: Any, x: Tensor, d_state: int = 64, expand: float = 2.0, conv_width: int = 4) -> Tensor:
    """Dao & Gu 2024, equation 1 discretised as in section 7 and the authors' code, one head at a time."""
    inner = round(expand * D_MODEL)
    assert conv_width == 1 or m.convolution.bias is not None
    z, xbc, dt = linear(x, m.into).split((inner, inner + 2 * d_state, inner // WIDTH), -1)
    u, b, c = silu(convolved(xbc, m.convolution)).split((inner, d_state, d_state), -1)
    dt = torch.log(1 + torch.exp(dt + m.decay.dt_bias))
    outputs = []
    for h in range(inner // WIDTH):
        matrix = torch.zeros(x.shape[0], WIDTH, d_state, dtype=x.dtype)
        mine = u[..., h * WIDTH : (h + 1) * WIDTH]
        rows = []
        for t in range(x.shape[1]):
            step = dt[:, t, h, None, None]
            matrix = torch.exp(-torch.exp(m.decay.A_log[h]) * step) * matrix + step * outer(mine[:, t], b[:, t])
            rows.append((matrix * c[:, t, None]).sum(-1) + m.D[h] * mine[:, t])
        outputs.append(torch.stack(rows, 1))
    return linear(rms(torch.cat(outputs, -1) * silu(z), m.norm), m.out)


def reference_rwkv7(m: Any, x: Tensor, first: Tensor | None = None, **ranks: int) -> tuple[Tensor, Tensor]:
    """Peng et al. 2025, section 4.1, with S as in the paper: [value, key]. Also returns the values that later layers mix in."""
    before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)
    x_r, x_w, x_k, x_v, x_a, x_g = (x + mu * (before - x) for mu in m.mix)
    r, k, v = linear(x_r, m.r), linear(x_k, m.k), linear(x_v, m.v)
    if first is not None:
        share = sigmoid(linear(linear(x_v, m.value.down), m.value.up))
        mixed = (1 - share) * v + share * first
    else:
        first = mixed = v
    w = torch.exp(-math.exp(-0.5) * sigmoid(linear(torch.tanh(linear(x_w, m.decay.down)), m.decay.up)))
    a = sigmoid(linear(linear(x_a, m.rate.down), m.rate.up))
    g = linear(sigmoid(linear(x_g, m.gate.down)), m.gate.up)
    kappa, new_k = k * m.unlearn_scale, k * (1 - m.rate_scale + a * m.rate_scale)
    outputs = []
    for h in range(HEADS):
        mine = slice(h * WIDTH, (h + 1) * WIDTH)
        matrix = torch.zeros(x.shape[0], WIDTH, WIDTH, dtype=x.dtype)
        for t in range(x.shape[1]):
            r_t, k_t, v_t, w_t, a_t = (each[:, t, mine] for each in (r, new_k, mixed, w, a))
            direction = kappa[:, t, mine] / kappa[:, t, mine].norm(dim=-1, keepdim=True)
            transition = torch.diag_embed(w_t) - outer(direction, a_t * direction)
            matrix = matrix @ transition + outer(v_t, k_t)
            y = (matrix @ r_t[..., None]).squeeze(-1)
            y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5 * WIDTH).sqrt()
            y = y * m.norm_weight[mine] + m.norm_bias[mine]
            outputs.append(y + (r_t * k_t * m.bonus[h]).sum(-1, keepdim=True) * v_t)
    y = torch.stack(outputs, 1).unflatten(1, (HEADS, -1)).transpose(1, 2).flatten(2)
    return linear(y * g, m.out), first


REFERENCES: dict[str, Callable[..., Any]] = {
    "linear": reference_linear,
    "retention": reference_retention,
    "gla": reference_gla,
    "delta_net": reference_delta_net,
    "gated_delta_net": reference_gated_delta_net,
    "mamba2": reference_mamba2,
    "rwkv7": lambda m, x, **ranks: reference_rwkv7(m, x)[0],
}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("linear", {"feature_map": "relu"}),
    ("linear", {"feature_map": "identity", "norm": NORM}),
    ("retention", {}),
    ("retention", {"decays": "linspace", "expand_v": 1.5}),
    ("gla", {}),
    ("gla", {"expand_k": 1.0, "expand_v": 2.0, "temperature": 2.0, "decay_rank": 3}),
    ("delta_net", {}),
    ("delta_net", {"conv_width": 1, "output_gate": True, "expand_v": 1.5}),
    ("delta_net", {"conv_width": 2, "negative_eigenvalues": True}),
    ("gated_delta_net", {}),
    ("gated_delta_net", {"output_gate": False, "negative_eigenvalues": True, "expand_v": 1.0}),
    ("mamba2", {}),
    ("mamba2", {"d_state": 3, "expand": 3.0, "conv_width": 1}),
    ("rwkv7", {}),
    ("rwkv7", {"decay_rank": 2, "rate_rank": 3, "gate_rank": 4}),
]
