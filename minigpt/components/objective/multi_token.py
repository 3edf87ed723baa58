"""Prediction of several future tokens at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, Component, Context, Dims, Layer, Objective, Prediction
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("objective", "multi_token")
class MultiToken(Objective):
    """The next token's cross-entropy, and that of the tokens after it, from further layers like the model's last.

    parallel: each further layer reads the model's hidden vectors (Gloeckle et al. 2024, arXiv:2404.19737).
    sequential: each reads the one before it, with the embedding of the token in between:
    h_k = layer_k(M_k [norm(h_(k-1)); norm(e(token k ahead))]) (DeepSeek-V3: arXiv:2412.19437, section 2.2).

    All use the model's own embedding and output map. The loss of the token k + 1 ahead is divided by the number of targets.
    Generation does not use the further layers.

    Args:
        n_future: Number of further tokens.
        style: `parallel` or `sequential`.
        weight: Weight of the mean of the further losses (DeepSeek-V3: 0.3).
    """

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        n_future: Annotated[int, Field(ge=1, le=16)] = 1,
        style: Literal["parallel", "sequential"] = "parallel",
        weight: Annotated[float, Field(gt=0)] = 0.3,
    ):
        super().__init__()
        self.weight = weight
        kind = _Sequential if style == "sequential" else _Parallel
        self.further = nn.ModuleList(kind(dims, layer) for _ in range(n_future))

    def forward(self, prediction: Prediction) -> Float[Tensor, ""]:
        hidden, losses = prediction.hidden, []
        for ahead, module in enumerate(self.further, 1):
            assert isinstance(module, _Parallel)
            hidden = module(hidden if isinstance(module, _Sequential) else prediction.hidden, prediction, ahead)
            targets = _shifted(prediction.targets, ahead)
            each = _cross_entropy(prediction.to_logits(module.norm(hidden)), targets)
            losses.append(each.masked_fill(~_counts(prediction, ahead), 0.0).sum() / _n_targets(prediction))
        prediction.ctx.losses.append(self.weight * torch.stack(losses).mean())
        return prediction.mean(_cross_entropy(prediction.logits, prediction.targets))


class _Parallel(Component):
    """One more layer on the model's hidden vectors."""

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.block = layer.block.build(dims, layer)
        self.norm = layer.norm.build(dims.d_model)

    def forward(
        self, hidden: Float[Tensor, "batch time d_model"], prediction: Prediction, ahead: int
    ) -> Float[Tensor, "batch time d_model"]:
        return _through(self.block, hidden, prediction.ctx)


class _Sequential(_Parallel):
    """One more layer on the vectors of the one before it and the embedding of the token in between."""

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.hidden_norm, self.token_norm = (layer.norm.build(dims.d_model) for _ in range(2))
        self.join = nn.Linear(2 * dims.d_model, dims.d_model, bias=False)

    def forward(
        self, hidden: Float[Tensor, "batch time d_model"], prediction: Prediction, ahead: int
    ) -> Float[Tensor, "batch time d_model"]:
        # Shifted after they are embedded, because an embedding may look back at the tokens before.
        between = _shifted(prediction.embed(prediction.tokens, prediction.ctx.segments), ahead)
        x = self.join(torch.cat((self.hidden_norm(hidden), self.token_norm(between)), -1))
        return _through(self.block, x, prediction.ctx)


def _through(block: nn.Module, x: Float[Tensor, "batch time d_model"], ctx: Context) -> Float[Tensor, "batch time d_model"]:
    """One layer on a plain stream, apart from the model's own layers."""
    assert isinstance(block, Block)
    apart = replace(ctx, outputs=[*ctx.outputs[:-2], x], shared=dict(ctx.shared))  # in the place of the last layer
    return block.leave(block(block.enter(x), apart))


def _shifted(each: Shaped[Tensor, "batch time *rest"], ahead: int) -> Shaped[Tensor, "batch time *rest"]:
    """The entries `ahead` places later; the last ones, which do not exist, are those of the beginning and do not count."""
    return each.roll(-ahead, 1)


def _counts(prediction: Prediction, ahead: int) -> Bool[Tensor, "batch time"]:
    """Whether the target `ahead` places later exists, counts, and is in the same segment."""
    batch, time = prediction.targets.shape
    exists = torch.arange(time, device=prediction.targets.device) < time - ahead
    counts = exists.expand(batch, time)
    if prediction.mask is not None:
        counts = counts & prediction.mask.roll(-ahead, 1)
    if prediction.ctx.segments is not None:
        counts = counts & (prediction.ctx.segments.roll(-ahead, 1) == prediction.ctx.segments)
    return counts


def _n_targets(prediction: Prediction) -> Int[Tensor, ""] | int:
    return prediction.targets.numel() if prediction.mask is None else prediction.mask.sum().clamp(min=1)


def _cross_entropy(
    logits: Float[Tensor, "batch time vocab"], targets: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    each = F.cross_entropy(upcast(logits).flatten(0, 1), targets.flatten(), reduction="none")
    return each.view_as(targets)
