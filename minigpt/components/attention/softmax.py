"""Bases of the softmax attention variants: the parameters that all variants share, the usual projections and the cache."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, NormSpec, ResidualLinear, State
from minigpt.kernels import attend, new_cache, remember


class SoftmaxCore(Attention):
    """The shared parameters, and the computation after the projections: value mixing, scores, gate, output map.

    Args:
        bias: Biases in the projections.
        dropout: Rate on the attention weights, separate from the model's dropout.
        window: A token sees itself and window - 1 before it (Beltagy et al. 2020, arXiv:2004.05150); null for all.
        qk_norm: Norm on queries and keys (Henry et al. 2020, arXiv:2010.04245); null for none.
        qk_norm_over: What it normalises: each head separately (Qwen 3), or all heads together (OLMo 2: arXiv:2501.00656).
        softcap: Scores are kept within +-softcap by a tanh (Gemma 2: arXiv:2408.00118); null for no cap.
        sinks: A learned extra logit for each head, so that it may attend to nothing (gpt-oss: arXiv:2508.10925).
        gate: Sigmoid gate on the output, computed from the input, per head or element (Qiu et al. 2025, arXiv:2505.06708).
        value_residual: Values are mixed with those of the first such layer (ResFormer: Zhou et al. 2024, arXiv:2410.17897).
        value_embedding: Each layer's own embedding of the token is added to its values (modded-nanogpt 2024).
    """

    uses = frozenset({"rotate", "bias", "score_factor"})
    value_kind: ClassVar[str] = "values"
    """Layers mix values only if their kind, number and width are equal."""

    def __init__(
        self,
        dims: Dims,
        *,
        bias: bool = True,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        window: Annotated[int, Field(gt=0)] | None = None,
        qk_norm: NormSpec | None = None,
        qk_norm_over: Literal["head", "heads"] = "head",
        softcap: Annotated[float, Field(gt=0)] | None = None,
        sinks: bool = False,
        gate: Literal["head", "element"] | None = None,
        value_residual: bool = False,
        value_embedding: bool = False,
        _kv_heads: int | None = None,
        _value_heads: int | None = None,
        _value_dim: int | None = None,
        _out_heads: int | None = None,
    ):
        super().__init__()
        if qk_norm is None and qk_norm_over != "head":
            raise ValueError(f'qk_norm_over "{qk_norm_over}" needs a qk_norm')
        width = dims.n_heads * dims.head_dim
        self.n_heads, self.head_dim = dims.n_heads, dims.head_dim
        self.n_kv_heads = _kv_heads or dims.n_heads
        self.value_heads, self.value_dim = _value_heads or self.n_kv_heads, _value_dim or dims.head_dim
        self.dropout, self.window, self.softcap = dropout, window, softcap
        self.reach, self.score_factor = window, dims.score_factor
        self.norms_each_head = qk_norm_over == "head"
        normed = (1, 1) if self.norms_each_head else (dims.n_heads, self.n_kv_heads)
        self.q_norm, self.k_norm = (qk_norm.build(n * dims.head_dim) if qk_norm else None for n in normed)
        self.sinks = nn.Parameter(torch.zeros(dims.n_heads)) if sinks else None
        gates = {"head": _out_heads or dims.n_heads, "element": width}
        self.gate = nn.Linear(dims.d_model, gates[gate], bias=bias) if gate else None
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if value_residual else None
        self.value_table = nn.Embedding(dims.vocab_size, self.value_heads * self.value_dim) if value_embedding else None
        self.biased = bias

    out: ResidualLinear
    """A variant sets it with `output_map`, after its projections."""

    def output_map(self, dims: Dims) -> ResidualLinear:
        """A map from the outputs of all heads to the residual stream."""
        return ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=self.biased)

    def normed(
        self, x: Float[Tensor, "batch heads time head_dim"], norm: nn.Module | None
    ) -> Float[Tensor, "batch heads time head_dim"]:
        """Normalise queries or keys, if there is a norm."""
        if norm is None:
            return x
        return norm(x) if self.norms_each_head else _heads(norm(x.transpose(1, 2).flatten(2)), x.shape[-1])

    def mixed_values(
        self, v: Float[Tensor, "batch kv_heads time v_dim"], ctx: Context
    ) -> Float[Tensor, "batch kv_heads time v_dim"]:
        """Add the value residual and the value embedding to the values."""
        if self.value_mix is not None:
            first = ctx.shared.setdefault(f"{self.value_heads} {self.value_kind} of {self.value_dim}", v)
            v = self.value_mix[0] * v + self.value_mix[1] * first
        if self.value_table is not None:
            rows = self.value_table(ctx.tokens)
            v = v + rows.view(*rows.shape[:2], self.value_heads, self.value_dim).transpose(1, 2)
        return v

    def attend(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads source head_dim"],
        v: Float[Tensor, "batch kv_heads source v_dim"],
        ctx: Context,
        k_positions: Int[Tensor, " source"],
        *,
        window: int | None,
        bias: Float[Tensor, "batch heads time source"] | None = None,
        scale: float | None = None,
        segments: Int[Tensor, "batch 1 source 1"] | None = None,
    ) -> Float[Tensor, "batch time heads v_dim"]:
        """`kernels.attend` with this layer's parameters; `bias` is added to the position's bias.

        `segments` are those of the keys, as `remember` returns them.
        """
        of_position = ctx.position.bias(ctx.positions, k_positions)
        both = bias if of_position is None else of_position if bias is None else bias + of_position
        if self.score_factor != 1:
            scale = self.score_factor * (q.shape[-1] ** -0.5 if scale is None else scale)
        return attend(
            q,
            k,
            v,
            ctx.positions,
            k_positions,
            window=window,
            bias=both,
            scale=scale,
            dropout=self.dropout if self.training else 0.0,
            softcap=self.softcap,
            sinks=self.sinks,
            segments=None if segments is None or ctx.segments is None else (ctx.segments, segments[:, 0, :, 0]),
        ).transpose(1, 2)

    def finish(
        self, mixed: Float[Tensor, "batch time out_heads out_dim"], x: Float[Tensor, "batch time d_model"]
    ) -> Float[Tensor, "batch time d_model"]:
        """Gate the output of each head, and map all of them to the residual stream."""
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid().view(*mixed.shape[:3], -1)
        return self.out(mixed.flatten(2))


class SoftmaxAttention(SoftmaxCore):
    """Causal softmax attention with H query heads over G key/value heads (H divisible by G).

    q, k, v = split(W_qkv x);  y = W_out concat_h softmax(q_h k_g(h)^T / sqrt(K) + bias) v_g(h)
    """

    def __init__(self, dims: Dims, *, _kv_heads: int | None = None, **shared: Any):
        kv_heads = _kv_heads or dims.n_heads
        if dims.n_heads % kv_heads:
            raise ValueError(f"n_kv_heads {kv_heads} does not divide n_heads {dims.n_heads}")
        super().__init__(dims, _kv_heads=kv_heads, **shared)
        width = (dims.n_heads + 2 * kv_heads) * dims.head_dim
        self.qkv = nn.Linear(dims.d_model, width, bias=self.biased)
        self.out = self.output_map(dims)

    def queries_keys_values(self, x: Float[Tensor, "batch time d_model"], ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both normalised and rotated) and values (mixed): [B, heads, T, width] each."""
        q, k, v = self.qkv(x).split(
            [heads * self.head_dim for heads in (self.n_heads, self.n_kv_heads, self.n_kv_heads)], -1
        )
        q = self.normed(_heads(q, self.head_dim), self.q_norm)
        k = self.normed(_heads(k, self.head_dim), self.k_norm)
        q, k = ctx.position.rotate(q, k, ctx.positions)
        return q, k, self.mixed_values(_heads(v, self.value_dim), ctx)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.queries_keys_values(x, ctx)
        (k, v, *kept), k_positions = remember(state, (k, v), ctx.positions, self.window, ctx.segments)
        segments = kept[0] if kept else None
        return self.finish(self.attend(q, k, v, ctx, k_positions, window=self.window, segments=segments), x)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        shapes = [(self.n_kv_heads, self.head_dim), (self.value_heads, self.value_dim), *self.also_remembered()]
        return new_cache(batch, shapes, capacity, self.window, device, dtype)

    def also_remembered(self) -> list[tuple[int, int]]:
        """Heads and width of the tensors that a variant caches in addition to keys and values."""
        return []


def _heads(x: Float[Tensor, "batch time width"], width: int) -> Float[Tensor, "batch heads time head_dim"]:
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)
