"""Mixture of depths: an example plugin, a block that some tokens skip.

Use it by naming this file in an experiment's "plugins" (see experiments/mixture_of_depths.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/mixture_of_depths.py --set model.block=mixture_of_depths
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Block, BlockSpec, Context, Dims, Layer, State, substate
from minigpt.registry import register


@register("block", "mixture_of_depths")
class MixtureOfDepthsBlock(Block):
    """Only some tokens pass through the inner block; the others skip it (Raposo et al. 2024, arXiv:2404.02258).

    y_t = x_t + sigmoid(s_t) (block(x)_t - x_t) if s_t > b, else x_t;  s_t = w x_t / sqrt(mean x_t^2)

    The paper lets the best tokens of a sequence through, which depends on later tokens, and trains a predictor for
    decoding. Here a threshold b decides in both, so decoding equals the full pass. After each update b rises if more than
    `capacity` of the tokens passed, and falls if fewer did (as in the balance of experts without a loss, arXiv:2408.15664).
    A token that skips the block is no key in it. All tokens are computed: this shows the loss of such a model, not its
    speed.

    Args:
        capacity: Share of the tokens that should pass.
        rate: Change of b in an update.
        block: The inner block. Its token mixer must keep segments apart.
    """

    threshold: Tensor
    passed: Tensor

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        capacity: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        rate: Annotated[float, Field(gt=0)] = 0.01,
        block: BlockSpec = "pre_norm",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__()
        self.capacity, self.rate = capacity, rate
        self.inner = block.build(dims, layer)
        for mixer in (part for part in self.inner.modules() if isinstance(part, Attention)):
            if "segments" not in mixer.uses:
                raise ValueError(f"{type(mixer).__name__} cannot hide tokens that skip the block; choose mha, for example")
        self.router = nn.Linear(dims.d_model, 1, bias=False)
        self.final_norm = self.inner.final_norm
        self.register_buffer("threshold", torch.zeros(()))
        # Tokens that passed and tokens in all since the last update; zero in every checkpoint.
        self.register_buffer("passed", torch.zeros(2), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        score = self.router(nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)).to(x.dtype)  # [B, T, 1]
        passes = score > self.threshold
        if self.training:
            self.passed += torch.stack((passes.sum(), passes.new_ones(()) * passes.numel()))
        own = torch.zeros_like(ctx.tokens) if ctx.segments is None else ctx.segments
        # A token sees only keys in its segment, and those that skip the block have a segment that the others do not see.
        hidden = replace(ctx, segments=torch.where(passes[..., 0], own, -1))
        y = self.inner.leave(self.inner(self.inner.enter(x), hidden, substate(state, "inner")))
        return torch.where(passes, x + score.sigmoid() * (y - x), x)

    def after_step(self) -> None:
        """Move the threshold towards the share of tokens that should pass."""
        share = self.passed[0] - self.capacity * self.passed[1]
        self.threshold += self.rate * share.sign()
        self.passed.zero_()
