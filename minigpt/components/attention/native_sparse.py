"""Native sparse attention."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.softmax import SoftmaxCore
from minigpt.contracts import Context, Dims, InnerLinear, State
from minigpt.kernels import attention_weights, new_cache, remember, visible
from minigpt.kernels.fused import wide_dtype
from minigpt.registry import register

Count = Annotated[int, Field(gt=0, le=1 << 17)]


@register("attention", "native_sparse")
class NativeSparseAttention(SoftmaxCore):
    """Attention to summaries, selected blocks and a window, gated (NSA: Yuan et al. 2025, arXiv:2502.11089).

    y = g_1 attend(summaries of overlapping blocks) + g_2 attend(tokens of the selected blocks) + g_3 attend(window), g
    sigmoids of x. A perceptron with trained positions inside the block computes the summary of its keys (values). Selected
    are the first block, the latest two, and those with summaries that all query heads of a group attend to most (equations
    7 to 12). Each view has its own keys and values; summaries use keys before rotation. The selection is a mask: it shows
    what such a model learns, and saves no time at the lengths that this lab trains.

    Args:
        n_kv_heads: Key/value heads; the query heads of one select the same blocks. Must divide n_heads.
        summary_block: Tokens in a summary.
        stride: Tokens from one summary to the next; must divide summary_block and select_block.
        select_block: Tokens in a selected block.
        selected: Blocks that a query sees, including the three that are always selected.
        window: Tokens that the window sees.
    """

    elementwise = frozenset({"places"})
    value_kind = "views"

    def __init__(
        self,
        dims: Dims,
        *,
        n_kv_heads: Count = 2,
        summary_block: Count = 16,
        stride: Count = 8,
        select_block: Count = 16,
        selected: Annotated[int, Field(ge=3)] = 6,
        window: Count = 64,
        **shared: Any,
    ):
        if dims.n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads {n_kv_heads} does not divide n_heads {dims.n_heads}")
        if summary_block % stride or select_block % stride:
            raise ValueError(
                f"stride {stride} does not divide summary_block {summary_block} and select_block {select_block}"
            )
        if summary_block > dims.block_size:
            raise ValueError(
                f"summary_block {summary_block} is more than block_size {dims.block_size}: no block would ever be complete"
            )
        super().__init__(dims, window=window, _kv_heads=3 * n_kv_heads, **shared)
        self.reach = None  # summaries and selected blocks are further back
        self.groups, self.selected = n_kv_heads, selected
        self.summary_block, self.stride, self.select_block = summary_block, stride, select_block
        width, inner = dims.n_heads * dims.head_dim, summary_block * dims.head_dim
        self.q = nn.Linear(dims.d_model, width, bias=self.biased)
        self.kv = nn.Linear(dims.d_model, 6 * n_kv_heads * dims.head_dim, bias=self.biased)
        self.views = nn.Linear(dims.d_model, 3 * dims.n_heads, bias=self.biased)
        self.places = nn.Parameter(torch.zeros(2, summary_block, dims.head_dim))  # for keys, for values
        self.summaries = nn.ModuleList(
            nn.Sequential(InnerLinear(inner, 2 * dims.head_dim), nn.GELU(), InnerLinear(2 * dims.head_dim, dims.head_dim))
            for _ in range(2)
        )
        self.out = self.output_map(dims)

    def init_weights(self) -> None:
        for map_ in (layer for summary in self.summaries for layer in summary.children()):
            if isinstance(map_, nn.Linear):
                map_.reset_parameters()  # with the model-wide deviation a summary would be almost zero

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        batch, time, _ = x.shape
        unrotated = self.q(x).view(batch, time, -1, self.head_dim).transpose(1, 2)
        keys, v = self.kv(x).view(batch, time, 2, -1, self.head_dim).transpose(1, 3).unbind(2)  # [B, 3 G, T, K]
        unrotated, keys = self.normed(unrotated, self.q_norm), self.normed(keys, self.k_norm)
        v = self.mixed_values(v, ctx)
        first, others = keys[:, : self.groups], keys[:, self.groups :]
        q, others = ctx.position.rotate(unrotated, others, ctx.positions)
        (first, others, v), k_positions = remember(state, (first, others, v), ctx.positions)
        of_summaries, of_blocks, of_window = v.chunk(3, 1)
        block_keys, window_keys = others.chunk(2, 1)
        from_summaries, weights = self._summarised(unrotated, first, of_summaries, ctx.positions)
        chosen = self._chosen(weights, ctx.positions, k_positions)
        mask = torch.zeros(chosen.shape, dtype=q.dtype, device=q.device).masked_fill(~chosen, -torch.inf)
        views = (
            from_summaries.transpose(1, 2),
            self.attend(q, block_keys, of_blocks, ctx, k_positions, window=None, bias=mask),
            self.attend(q, window_keys, of_window, ctx, k_positions, window=self.window),
        )
        gates = self.views(x).sigmoid().view(batch, time, 3, self.n_heads, 1)
        mixed = sum(gates[:, :, number] * view for number, view in enumerate(views))
        assert isinstance(mixed, Tensor)
        return self.finish(mixed, x)

    def _summarised(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads source head_dim"],
        v: Float[Tensor, "batch kv_heads source head_dim"],
        positions: Int[Tensor, " time"],
    ) -> tuple[Float[Tensor, "batch heads time head_dim"], Float[Tensor, "batch heads time summaries"]]:
        """The output of attention to summaries of complete blocks, and its weights; zeros before the first summary."""
        sharing = self.n_heads // self.groups
        if k.shape[2] < self.summary_block:
            return torch.zeros_like(q), q.new_zeros(*q.shape[:3], 0, dtype=wide_dtype(q.dtype))
        made = []
        for part, places, summary in zip((k, v), self.places, self.summaries, strict=True):
            blocks = part.unfold(2, self.summary_block, self.stride).mT + places.to(part.dtype)  # [B, G, N, block, K]
            made.append(summary(blocks.flatten(3)))
        keys, values = (part.repeat_interleave(sharing, 1) for part in made)
        ends = torch.arange(keys.shape[2], device=q.device) * self.stride + self.summary_block - 1
        whole = visible(positions, ends)
        none = ~whole.any(-1, keepdim=True)  # avoid a softmax over an empty set: attend to anything, then zero it
        scale = self.score_factor * q.shape[-1] ** -0.5
        weights = attention_weights(q, keys, whole | none, scale=scale, softcap=self.softcap, sinks=self.sinks)
        weights = weights.masked_fill(none, 0.0)
        dropped = nn.functional.dropout(weights, self.dropout, self.training)
        return dropped.to(values.dtype) @ values, weights

    def _chosen(
        self,
        weights: Float[Tensor, "batch heads time summaries"],
        positions: Int[Tensor, " time"],
        k_positions: Int[Tensor, " source"],
    ) -> Bool[Tensor, "batch heads time source"]:
        """Which keys are in a query's selected blocks."""
        source, device = len(k_positions), weights.device
        block_of = torch.arange(source, device=device) // self.select_block
        number = -(-source // self.select_block)
        # A summary counts for a block as often as they share strides (equation 9).
        strides = torch.arange(weights.shape[-1], device=device)[:, None] * self.stride + torch.arange(
            0, self.summary_block, self.stride, device=device
        )
        shared = torch.nn.functional.one_hot((strides // self.select_block).clamp(max=number - 1), number).sum(1)
        by_head = weights.detach() @ shared.to(weights.dtype)  # [B, H, T, number]
        importance = by_head.view(by_head.shape[0], self.groups, -1, *by_head.shape[2:]).sum(2)  # [B, G, T, number]
        blocks = torch.arange(number, device=device)
        latest = positions[:, None] // self.select_block
        always = (blocks == 0) | ((blocks <= latest) & (blocks > latest - 2))
        # Two blocks of one summary that all heads attend to are equally important except for rounding. Rounded to 1/1024
        # they are equal, and of equal blocks the later one is selected.
        importance = (importance * 1024).round() + blocks.to(wide_dtype(importance.dtype)) / number
        importance = importance.masked_fill(always, torch.inf).masked_fill(blocks > latest, -torch.inf)
        best = importance.topk(min(self.selected, number), -1).indices
        picked = torch.zeros_like(importance, dtype=torch.bool).scatter_(-1, best, True) & (blocks <= latest)
        return picked[..., block_of].repeat_interleave(self.n_heads // self.groups, 1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        heads = (self.groups, 2 * self.groups, 3 * self.groups)
        return new_cache(batch, [(count, self.head_dim) for count in heads], capacity, None, device, dtype)
