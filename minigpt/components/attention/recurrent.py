"""Base of mixers whose heads read from a matrix: projections, the matrix as state, norm and gate of the outputs."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Dims, NormSpec, ResidualLinear, State
from minigpt.kernels.recurrence import new_matrix

Expansion = Annotated[float, Field(gt=0, le=64)]

PUBLISHED_NORM: Any = {"name": "rmsnorm", "eps": 1e-5}
"""The output norm of GLA, DeltaNet, Gated DeltaNet and Mamba-2 in their authors' layers, as a value in JSON. Outputs of
DeltaNet and Gated DeltaNet start so small that the eps matters."""


class RecurrentAttention(Attention):
    """H heads, each with a matrix S [K, V] as its state; see minigpt/kernels/recurrence.py.

    q, k, v = split(W_qkv x);  y = W_out concat_h norm(S_h^T q_h) * silu(W_gate x)_h, the gate if there is one

    Args:
        expand_v: Width V of a head's values, as a multiple of head_dim.
        norm: Norm of each head's output.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expand_v: Expansion = 1.0,
        norm: NormSpec = "rmsnorm",  # type: ignore[assignment] # as a value in JSON
        _expand_k: float = 1.0,
        _gate: bool = True,
    ):
        super().__init__()
        self.n_heads = dims.n_heads
        self.key_dim = _expanded(dims, "expand_k", _expand_k)
        self.value_dim = _expanded(dims, "expand_v", expand_v)
        values = dims.n_heads * self.value_dim
        self.qkv = nn.Linear(dims.d_model, 2 * dims.n_heads * self.key_dim + values, bias=False)
        self.norm = norm.build(self.value_dim)
        self.gate = nn.Linear(dims.d_model, values, bias=False) if _gate else None
        self.out = ResidualLinear(values, dims.d_model, bias=False)

    def heads(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch heads time _"]:
        """Split into heads of equal width."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)

    def queries_keys_values(
        self, projected: Float[Tensor, "batch time width"]
    ) -> tuple[
        Float[Tensor, "batch heads time key"], Float[Tensor, "batch heads time key"], Float[Tensor, "batch heads time value"]
    ]:
        """Split the output of W_qkv into heads."""
        widths = [self.n_heads * width for width in (self.key_dim, self.key_dim, self.value_dim)]
        q, k, v = (self.heads(part) for part in torch.split(projected, widths, -1))
        return q, k, v

    def finish(
        self, y: Float[Tensor, "batch heads time value"], x: Float[Tensor, "batch time d_model"]
    ) -> Float[Tensor, "batch time d_model"]:
        """Apply norm, gate and output map."""
        mixed = self.norm(y).transpose(1, 2).flatten(2)
        return self.out(mixed if self.gate is None else mixed * F.silu(self.gate(x)))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype) or State()
        state.tensors |= new_matrix(batch, self.n_heads, self.key_dim, self.value_dim, device, dtype).tensors
        return state


def _expanded(dims: Dims, name: str, factor: float) -> int:
    width = factor * dims.head_dim
    if width < 1 or width != round(width):
        raise ValueError(f"{name} {factor:g} times head_dim {dims.head_dim} is {width:g}; it must be a whole number")
    return round(width)
