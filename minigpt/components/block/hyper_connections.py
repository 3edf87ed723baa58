"""Several residual streams, and trained connections between them and each sub-layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, Component, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout
from minigpt.registry import register


class HyperConnection(Component):
    """Reads a sub-layer's input from n streams H [n, D] and writes its output: H <- A_r^T H + B^T sublayer(A_m^T H).

    Dynamic connections depend on the token: A_m = s tanh(W_m norm(H)) + static A_m. A_r has the same form and the same s, B
    the same form with its own s. Each W starts at zero and each s small.
    """

    elementwise = frozenset({"read", "write"})  # the static part has no weight decay in the paper

    def __init__(self, dims: Dims, layer: Layer, n_streams: int, place: int, dynamic: bool):
        super().__init__()
        # Columns A_m, A_r. At first sub-layer k reads stream k mod n and adds to all; streams do not mix otherwise.
        identity = torch.eye(n_streams)
        self.read = nn.Parameter(torch.cat((identity[:, place % n_streams, None], identity), 1))
        self.write = nn.Parameter(torch.ones(n_streams))
        self.norm = layer.norm.build(dims.d_model) if dynamic else None
        self.dynamic = nn.Parameter(torch.zeros(n_streams + 2, dims.d_model)) if dynamic else None
        self.read_scale = nn.Parameter(torch.tensor(0.01)) if dynamic else None
        self.write_scale = nn.Parameter(torch.tensor(0.01)) if dynamic else None

    def forward(
        self, streams: Float[Tensor, "batch time streams d_model"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch time streams d_model"]:
        read, write = self._connections(streams)
        with torch.autocast(streams.device.type, enabled=False):  # residual streams keep their precision
            mixed = read.to(streams.dtype).mT @ streams
        added = sublayer(mixed[..., 0, :])
        return mixed[..., 1:, :] + write[..., None] * added[..., None, :]

    def _connections(
        self, streams: Float[Tensor, "batch time streams d_model"]
    ) -> tuple[Float[Tensor, "*tokens streams reads"], Float[Tensor, "*tokens streams"]]:
        if self.norm is None or self.dynamic is None or self.read_scale is None or self.write_scale is None:
            return self.read, self.write
        dynamic = torch.tanh(F.linear(self.norm(streams), self.dynamic))
        return self.read + self.read_scale * dynamic[..., :-1], self.write + self.write_scale * dynamic[..., -1]


@register("block", "hyper_connections")
class HyperConnectionsBlock(Block):
    """Pre-norm sub-layers with trained connections between n residual streams (Zhu et al. 2024, arXiv:2409.19606).

        H <- A_r^T H + B^T attention(norm(A_m^T H)), then the same with ffn, each with its own connections

    The streams start as n copies of the plain stream, and end as their mean. The paper uses their sum, which the norm after
    the last block scales to the same result; but it would grow n-fold at every border with another block. At first all
    streams are equal, and each equals that of pre_norm. The paper also scales the initial output maps by sqrt(n); here they
    start as in other blocks.

    Args:
        n_streams: Number n of streams (the paper's expansion rate).
        dynamic: Connections also depend on the token (DHC); false for trained constants (SHC).
    """

    def __init__(self, dims: Dims, layer: Layer, *, n_streams: Annotated[int, Field(ge=1, le=64)] = 4, dynamic: bool = True):
        super().__init__()
        self.n_streams = n_streams
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.attention_connection = HyperConnection(dims, layer, n_streams, 2 * dims.layer, dynamic)
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.ffn_connection = HyperConnection(dims, layer, n_streams, 2 * dims.layer + 1, dynamic)
        self.dropout = Dropout(dims.dropout)

    def enter(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time streams d_model"]:
        return x[..., None, :].expand(*x.shape[:-1], self.n_streams, -1)

    def leave(self, x: Float[Tensor, "batch time streams d_model"]) -> Float[Tensor, "batch time d_model"]:
        return x.mean(-2)

    def forward(
        self, x: Float[Tensor, "batch time streams d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time streams d_model"]:
        def attention(y: Tensor) -> Tensor:
            return self.dropout(self.attention(self.attention_norm(y), ctx, substate(state, "attention")))

        def ffn(y: Tensor) -> Tensor:
            return self.dropout(self.ffn(self.ffn_norm(y), ctx, substate(state, "ffn")))

        return self.ffn_connection(self.attention_connection(x, attention), ffn)
