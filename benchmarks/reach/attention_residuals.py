"""Attention residuals, as a plugin: each sub-layer chooses by a softmax among the outputs of all earlier ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from minigpt.kernels.fused import Dropout, rms_norm, upcast
from minigpt.registry import register


class Choice(nn.Module):
    """h = sum over j of a_j v_j, a = softmax over j of w^T rms(v_j); w starts at zero, which gives the mean."""

    def __init__(self, d_model: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(d_model))

    def forward(self, values: list[Float[Tensor, "batch time d_model"]]) -> Float[Tensor, "batch time d_model"]:
        stacked = torch.stack(values)
        weights = (upcast(rms_norm(stacked, 1e-6)) * self.query).sum(-1, keepdim=True).softmax(0)
        return (weights.to(stacked.dtype) * stacked).sum(0)


@register("block", "attention_residuals")
class AttentionResidualsBlock(Block):
    """h_l = sum over i < l of a_(i, l) v_i, v_i the output of sub-layer i, v_0 the embedding (Kimi 2026, arXiv:2603.15031).

    Each sub-layer reads norm(h_l), and there is no residual connection. a is a softmax with one trained query for each
    sub-layer. Layers with this block form one group; if another block comes between, the next group starts from its stream.
    """

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.before_ffn = Choice(dims.d_model)
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.after = Choice(dims.d_model)  # what the next layer, or the model's head, reads
        self.dropout = Dropout(dims.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        values, newest = ctx.shared.get("attention_residuals", ([], None))
        values = [*values] if newest is x else [x]
        values.append(self.dropout(self.attention(self.attention_norm(x), ctx, substate(state, "attention"))))
        h = self.before_ffn(values)
        values.append(self.dropout(self.ffn(self.ffn_norm(h), ctx, substate(state, "ffn"))))
        h = self.after(values)
        ctx.shared["attention_residuals"] = (values, h)
        return h
